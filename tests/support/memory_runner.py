"""A runner without a model, whose KV is only what was written where.

It checks what every real runner relies on: whatever was shared, copied, preempted or guessed, a
token sees its own sequence and nothing else.
"""

from collections.abc import Callable, Sequence

from penstock_worker.messages import TokenLogprobs
from penstock_worker.request import Request
from penstock_worker.runner_interface import SampledToken, SliceOutput
from penstock_worker.step import Slice


def position(tokens: Sequence[int], request: Request) -> int:
    """Draw the position."""
    return len(tokens)


class MemoryRunner:
    """Keeps each slot's token, and reads all that are in sight for every draw.

    Args:
        block_size: tokens per block.
        budget: tokens that a step may have at most.
        draw: the next token, from those before it.
        window: tokens that a draw reads, itself not among them; 0 for all.
    """

    def __init__(
        self,
        block_size: int,
        budget: int = 1 << 30,
        draw: Callable[[Sequence[int], Request], int] = position,
        window: int = 0,
    ) -> None:
        self.computed = 0
        self.copied = 0
        self._block_size = block_size
        self._budget = budget
        self._draw = draw
        self._window = window
        self.slots: dict[tuple[int, int], int] = {}

    def run(
        self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
    ) -> list[SliceOutput]:
        """See `Runner.run`."""
        for source, target in copies:
            for offset in range(self._block_size):
                self.slots[target, offset] = self.slots.get((source, offset), -1)
        self.copied += len(copies)
        tokens = sum(part.count + len(part.drafts) for part in slices)
        assert 0 < tokens <= self._budget
        self.computed += tokens
        assert len({id(part.request) for part in slices}) == len(slices)
        for part in slices:
            self._write(part)
        return [self._computed(part) for part in slices]

    def _write(self, part: Slice) -> None:
        request = part.request
        assert part.count > 0
        assert part.start == request.computed
        assert part.samples or not part.drafts
        known = request.tokens[part.start : part.start + part.count]
        for place, token in enumerate([*known, *part.drafts], part.start):
            self.slots[self._slot(request, place)] = token

    def _slot(self, request: Request, place: int) -> tuple[int, int]:
        return request.blocks[place // self._block_size], place % self._block_size

    def _computed(self, part: Slice) -> SliceOutput:
        request = part.request
        scores = [TokenLogprobs(-float(place), []) for place in part.scored]
        if not part.samples:
            return SliceOutput(scores=scores)
        everything = [*request.tokens, *part.drafts]
        # From where the first computed token looks: that is as far back as any of them does.
        first = max(0, part.start + 1 - self._window) if self._window else 0
        places = range(first, len(everything))
        assert [self.slots[self._slot(request, place)] for place in places] == everything[first:]
        ends = range(len(request.tokens), len(everything) + 1)
        return SliceOutput(
            [SampledToken(self._draw(everything[:end], request)) for end in ends], scores
        )
