"""Open-loop load of streams, and a judgement on each: what its client got, and should have got."""

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from stream_auditor import Recording, Verdict, audit, record
from worker_process import NAME

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
WORKER: Final = "x-penstock-worker"
PATIENCE: Final = 180.0
"""Seconds after which a client takes its answer for lost."""


@dataclass(frozen=True)
class Question:
    """A streamed request whose answer does not depend on luck."""

    path: str
    body: dict[str, Any]
    choices: int = 1


def questions(count: int, tokens: int, *, plain: bool = False) -> list[Question]:
    """Return requests of every kind that must survive a migration; plain ones are chats."""
    kinds: list[tuple[str, dict[str, Any], int]] = [
        (CHAT, {"temperature": 0}, 1),
        (CHAT, {"temperature": 1.2, "seed": 11}, 1),
        (CHAT, {"temperature": 0.9, "seed": 5, "n": 2}, 2),
        (COMPLETIONS, {"temperature": 0}, 1),
        (COMPLETIONS, {"temperature": 1.0, "seed": 3, "stop": [" the list", "zip("]}, 1),
        (
            CHAT,
            {"temperature": 1.0, "seed": 9, "presence_penalty": 1.0, "frequency_penalty": 0.5},
            1,
        ),
    ]
    if plain:
        kinds = [kind for kind in kinds if kind[0] == CHAT and kind[2] == 1]
    words = ("a list", "a tuple", "a set", "sorted()", "a module", "an iterator", "open()", "len()")
    found = []
    for number in range(count):
        path, options, choices = kinds[number % len(kinds)]
        text = f"({number}) Explain {words[number % len(words)]} in detail."
        prompt: dict[str, Any] = {"prompt": text}
        if path == CHAT:
            prompt = {"messages": [{"role": "user", "content": text}]}
        common = {"model": NAME, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        usage = {"stream_options": {"include_usage": True}}
        found.append(Question(path, {**common, **usage, **prompt, **options}, choices))
    return found


class Judgement(Enum):
    """What became of a request, from its client's point of view."""

    WHOLE = "whole"
    LOST = "lost"
    """It ended visibly without the answer: an error, a refusal, a broken connection."""
    TRUNCATED = "truncated"
    """A part of the answer passes for the whole."""
    DUPLICATED = "duplicated"
    """More came than the answer has."""
    MISMATCHED = "mismatched"
    """Something else came."""


@dataclass(eq=False)
class Sample:
    """One request of the load."""

    question: Question
    gateway: int
    sent: float
    """Monotonic seconds."""
    recording: Recording = field(default_factory=Recording)
    ended: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """What the auditor says."""
        return audit(self.recording, include_usage=True, choices=self.question.choices)

    def pause_after(self, when: float) -> float | None:
        """Return the longest pause from a moment on, if the stream was under way then."""
        times = self.recording.times
        if not times or not times[0] <= when < times[-1]:
            return None
        pairs = itertools.pairwise(times)
        return max(after - before for before, after in pairs if after > when)


def judge(sample: Sample, reference: Verdict) -> Judgement:
    """Return what a stream amounted to, beside the answer of an undisturbed run."""
    found = sample.verdict
    if found.outcome != "complete":
        silent = sample.recording.status == 200 and sample.recording.clean_end
        return Judgement.TRUNCATED if silent and found.error is None else Judgement.LOST
    if "an event is not JSON" in found.violations:
        return Judgement.MISMATCHED
    texts = [(found.texts.get(index, ""), text) for index, text in reference.texts.items()]
    same_usage = _counts(found) == _counts(reference)
    if all(got == wanted for got, wanted in texts) and same_usage:
        return Judgement.WHOLE
    if all(wanted.startswith(got) for got, wanted in texts):
        return Judgement.TRUNCATED
    longer = any(len(got) > len(wanted) for got, wanted in texts)
    return Judgement.DUPLICATED if longer else Judgement.MISMATCHED


def _counts(verdict: Verdict) -> tuple[int, int] | None:
    usage = verdict.usage
    return (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None


class Load:
    """Asks questions at gateways; a gateway that refuses connections is passed over.

    Args:
        urls: of the gateways, or of the router that stands there instead.
        asked: what may be asked.
        seed: of everything random.
    """

    def __init__(self, urls: Sequence[str], asked: Sequence[Question], seed: int = 0) -> None:
        self.urls = list(urls)
        self.references: list[Verdict] = []
        self._live: set[Sample] = set()
        self._asked = asked
        self._random = random.Random(seed)

    async def learn(self) -> float:
        """Ask everything once, undisturbed; return how many requests a second that made."""
        began = time.monotonic()
        samples = await asyncio.gather(*(self._ask(Sample(q, 0, began)) for q in self._asked))
        self.references = [sample.verdict for sample in samples]
        broken = [verdict for verdict in self.references if verdict.outcome != "complete"]
        if broken:
            raise SystemExit(f"undisturbed, a stream ended with {broken[0]}")
        return len(samples) / (time.monotonic() - began)

    async def run(self, rate: float, seconds: float, most: int = sys.maxsize) -> list[Sample]:
        """Ask for so long, `rate` a second, at random times (Poisson); wait for the answers.

        Whoever would come while there are as many as `most` stays away.
        """
        tasks: list[asyncio.Task[Sample]] = []
        when = time.monotonic()
        end = when + seconds
        while when < end:
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            question = self._random.choice(self._asked)
            gateway = self._random.randrange(len(self.urls))
            sample = Sample(question, gateway, time.monotonic())
            if self.live < most:
                tasks.append(asyncio.create_task(self._ask(sample)))
            when += self._random.expovariate(rate)
        return list(await asyncio.gather(*tasks))

    @property
    def live(self) -> int:
        """How many requests wait for an answer, or for its end."""
        return len(self._live)

    def under_way(self, gateway: int) -> int:
        """Return how many streams of a gateway have begun and not ended."""
        return sum(s.gateway == gateway and bool(s.recording.times) for s in self._live)

    def judged(self, samples: Sequence[Sample]) -> list[tuple[Sample, Judgement, Verdict]]:
        """Return what became of each, and what an undisturbed run answered."""
        known = dict(zip(map(id, self._asked), self.references, strict=True))
        references = [known[id(sample.question)] for sample in samples]
        judgements = map(judge, samples, references)
        return list(zip(samples, judgements, references, strict=True))

    async def _ask(self, sample: Sample) -> Sample:
        question = sample.question
        self._live.add(sample)
        for _ in self.urls:
            url = self.urls[sample.gateway]
            try:
                async with asyncio.timeout(PATIENCE):
                    await record(url, question.path, question.body, into=sample.recording)
                break
            except TimeoutError:
                break
            except OSError:
                # Nobody listens there: a Service would not have sent us there.
                sample.gateway = (sample.gateway + 1) % len(self.urls)
        self._live.discard(sample)
        sample.ended = time.monotonic()
        return sample
