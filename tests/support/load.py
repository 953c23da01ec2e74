"""Steady load on a gateway: streams that start one after the other, each recorded and audited."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from stream_auditor import Recording, Verdict, audit, record

CHAT = "/v1/chat/completions"
_SUBJECTS = ["list", "tuple", "set", "dict", "generator", "class", "module", "decorator"]


@dataclass
class Load:
    """What became of the streams."""

    recordings: list[Recording] = field(default_factory=list)

    def verdicts(self) -> list[Verdict]:
        """Return the auditor's judgement of every stream."""
        return [audit(recording, include_usage=True) for recording in self.recordings]


@asynccontextmanager
async def load(url: str, model: str, clients: int, tokens: int = 48) -> AsyncIterator[Load]:
    """Keep `clients` streams going; on leaving, let those that run finish."""
    found, stop = Load(), asyncio.Event()
    tasks = [
        asyncio.create_task(_client(url, model, tokens, random.Random(seed), found, stop))
        for seed in range(clients)
    ]
    try:
        yield found
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def done(found: Load, count: int) -> None:
    """Wait until so many streams have ended."""
    async with asyncio.timeout(300):
        while len(found.recordings) < count:
            await asyncio.sleep(0.05)


def assert_nothing_lost(found: Load, tokens: int = 48) -> None:
    verdicts = found.verdicts()
    assert [(one.status, one.body) for one in found.recordings if one.status != 200] == []
    assert [v.violations for v in verdicts] == [[]] * len(verdicts)
    assert {v.outcome for v in verdicts} == {"complete"}
    assert {v.usage["completion_tokens"] for v in verdicts if v.usage} == {tokens}


async def _client(
    url: str, model: str, tokens: int, chance: random.Random, found: Load, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        found.recordings.append(await record(url, CHAT, _body(model, tokens, chance)))


def _body(model: str, tokens: int, chance: random.Random) -> dict[str, Any]:
    question = f"What is a {chance.choice(_SUBJECTS)}? ({chance.randrange(1000)})"
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
