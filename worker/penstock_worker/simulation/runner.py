"""Draws tokens from a hash, and takes as long as a model would."""

import hashlib
import struct
from collections.abc import Callable, Sequence

from penstock_contract.step_cost import StepCost
from penstock_worker.messages import TokenLogprobs
from penstock_worker.request import Request
from penstock_worker.runner_interface import SampledToken, SliceOutput
from penstock_worker.step import Slice


class SimulatedAdapters:
    """Takes adapters, which change nothing; see `AdapterHost`."""

    def prepare(self, adapter: object) -> object:
        """Return it as it is."""
        return adapter

    def add(self, name: str, prepared: object) -> None:
        """There is nothing to add to."""

    def drop(self, name: str) -> None:
        """There is nothing to forget."""


class SimulatedRunner:
    """Computes slices in the time that a cost says.

    Args:
        cost: seconds by what a step computes.
        vocab_size: token ids run up to it.
        sleep: passes seconds.
    """

    def __init__(self, cost: StepCost, vocab_size: int, sleep: Callable[[float], None]) -> None:
        self._cost = cost
        self._vocab_size = vocab_size
        self._sleep = sleep

    def run(
        self,
        slices: Sequence[Slice],
        copies: Sequence[tuple[int, int]] = (),  # noqa: ARG002
    ) -> list[SliceOutput]:
        """See `Runner.run`."""
        decoding = sum(1 for part in slices if part.start >= part.request.prompt_length)
        prefill = sum(part.count for part in slices) - decoding
        self._sleep(self._cost.seconds(prefill, decoding, sum(part.start for part in slices)))
        return [self._computed(part) for part in slices]

    def _computed(self, part: Slice) -> SliceOutput:
        scores = [TokenLogprobs(0.0, []) for _ in part.scored]
        if not part.samples:
            return SliceOutput(scores=scores)
        request = part.request
        logprobs = None if request.sampling.logprobs is None else TokenLogprobs(0.0, [])
        return SliceOutput([SampledToken(next_token(request, self._vocab_size), logprobs)], scores)


def next_token(request: Request, vocab_size: int) -> int:
    """Return the next token: a function of prompt, seed, choice and position.

    As with a model, temperature 0 takes the seed out. Stop tokens are never drawn: every answer
    has the length that was asked for, as benchmarks want it.
    """
    wanted = request.sampling
    seed = wanted.seed if wanted.temperature else 0
    place = (seed, wanted.choice if seed else 0, len(request.tokens), request.tokens[-1])
    digest = hashlib.blake2b(struct.pack("<qqqq", *place), digest_size=8).digest()
    token = int.from_bytes(digest, "little") % vocab_size
    while token in request.stop_tokens and len(request.stop_tokens) < vocab_size:
        token = (token + 1) % vocab_size
    return token
