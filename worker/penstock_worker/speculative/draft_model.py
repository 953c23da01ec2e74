"""Guesses of a draft model: a smaller one with the same vocabulary runs a few tokens ahead
(Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023). A head is one
that also sees what the target thought of each token (`attention/features.py`).

Its KV lies in a pool of its own, in the blocks of the target's tables: block 7 of both is about the
same tokens. So nothing is allocated, shared, preempted or given back a second time. What the target
finds in its prefix cache the draft may have never computed, where it came from another worker or
from a disk, or where nothing was guessed meanwhile: the draft knows by name which blocks it has,
and computes what it lacks. Choices that share a prompt begin to be guessed for once each has a tail
of its own.

Every step begins with one batch in which the draft computes what it has not seen of each sequence,
prompts in the chunks that the target took, and guesses a first token; then follow batches of one
token each. Wrong guesses are computed over: KV counts up to the last token that was right.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from penstock_worker.attention import interface
from penstock_worker.model.interface import Batch, Model
from penstock_worker.request import Request
from penstock_worker.speculative.accept import agreed
from penstock_worker.speculative.costs import Costs
from penstock_worker.speculative.guesses import Guesses, Vocabulary
from penstock_worker.speculative.lengths import Acceptance, draft_lengths
from penstock_worker.speculative.proposer import NOTHING, Proposal, Room


@dataclass(frozen=True)
class _Part:
    """Tokens of a request that the draft computes in a batch."""

    request: Request
    start: int
    tokens: list[int]
    draws: bool
    """Whether they end where a token is to be guessed."""


@dataclass(frozen=True)
class _Checking:
    """What the target has been given to compute."""

    requests: set[Request]
    guesses: int
    context: int
    began: float


@dataclass
class _Sequence:
    """What the draft knows of a request."""

    acceptance: Acceptance = field(default_factory=Acceptance)
    table: list[int] | None = None
    """The request's own block table: one that was preempted comes back with another."""
    computed: int = 0
    """Known tokens whose KV the draft has."""
    named: int = 0
    """Leading blocks whose names are noted."""
    guessed: list[int] = field(default_factory=list)
    """Behind them, in the latest step; of all but the last one there is KV, too."""


class DraftModel:
    """Guesses what a smaller model would say.

    Args:
        model: the draft, over a pool with as many blocks as the target's, of the same size.
        num_blocks, block_size: of both pools.
        vocabulary: of both models.
        most: tokens to guess for a sequence.
        budget: tokens that it computes in a batch, at most.
        keeps: whether what it computed of a guess that was right stays as it is. A head's was made
            without what the target has thought of it since, and is computed again.
        costs: of both models' steps; None: as many as possible are guessed.
        clock: seconds.
    """

    def __init__(
        self,
        model: Model,
        *,
        num_blocks: int,
        block_size: int,
        vocabulary: Vocabulary,
        most: int,
        budget: int,
        keeps: bool = True,
        costs: Costs | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._guesses = Guesses(model, vocabulary)
        self._size = block_size
        self._vocab = vocabulary
        self._most = most
        self._budget = budget
        self._keeps = keeps
        self._costs = costs
        self._clock = clock
        self._checking: _Checking | None = None
        self._names = [b""] * num_blocks
        self._sequences: WeakKeyDictionary[Request, _Sequence] = WeakKeyDictionary()

    @torch.inference_mode()
    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        """See `Proposer.propose`."""
        for request in running:
            self._follow(request)
        self._learn_target(running)
        lengths = self._planned(running, room)
        parts = self._missing(lengths)
        found = {part.request: Proposal([], []) for part in parts if part.draws}
        while parts:
            self._compute(parts, found)
            parts = [
                _Part(request, len(request.tokens) + len(said) - 1, said[-1:], draws=True)
                for request in (part.request for part in parts if part.draws)
                if len(said := found[request].tokens) < lengths[request]
            ]
        for request, proposal in found.items():
            self._sequences[request].guessed = proposal.tokens
        guesses = sum(len(proposal.tokens) for proposal in found.values())
        if all(request.pending == 1 for request in running):
            self._checking = _Checking(set(running), guesses, _context(running), self._clock())
        return [self._guesses.known(found.get(request, NOTHING)) for request in running]

    def pause(self) -> None:
        """Steps without guesses follow: what it knows of tables holds from step to step only."""
        self._checking = None
        for found in self._sequences.values():
            found.table = None

    def _learn_target(self, running: Sequence[Request]) -> None:
        """Learn what the target's step took, if it did nothing but to check guesses and decode."""
        last, self._checking = self._checking, None
        if self._costs is None or last is None or not running:
            return
        if last.requests.issuperset(running):  # nobody was admitted, whose prompt it computed
            seconds = self._clock() - last.began
            self._costs.target.learn(seconds, last.guesses, len(last.requests), last.context)

    def _planned(self, running: Sequence[Request], room: Room) -> dict[Request, int]:
        """Return whose tokens the draft is to see, and how many it is to guess for each."""
        going_on = [one for one in running if not one.forked and _goes_on(one)]
        lengths = [self._most] * len(going_on)
        if self._costs is not None:
            lengths = draft_lengths(
                [self._sequences[request].acceptance.chance for request in going_on],
                self._most,
                self._costs.target.cost,
                self._costs.draft.cost,
                _context(running),
            )
        return {
            request: room(request, length) if request.pending == 1 else 0
            for request, length in zip(going_on, lengths, strict=True)
            if length
        }

    def _missing(self, lengths: dict[Request, int]) -> list[_Part]:
        """Return what the draft has not computed yet, as far as its budget goes."""
        parts, budget = [], self._budget
        for request, length in lengths.items():
            found = self._sequences[request]
            start, known = found.computed, len(request.tokens) if length else request.computed
            tokens = request.tokens[start : min(known, start + budget)]
            if tokens:
                found.computed += len(tokens)
                budget -= len(tokens)
                draws = length > 0 and found.computed == known
                parts.append(_Part(request, start, tokens, draws))
        return parts

    def _compute(self, parts: Sequence[_Part], found: dict[Request, Proposal]) -> None:
        """Guess a token for each part that draws one."""
        began = self._clock()
        batch = Batch(tokens=[], positions=[], sequences=[], output_rows=[])
        for part in parts:
            request, first, end = part.request, len(batch.tokens), part.start + len(part.tokens)
            for block in request.blocks[part.start // self._size : -(-end // self._size)]:
                self._names[block] = b""
            batch.sequences.append(
                interface.Sequence(first, len(part.tokens), part.start, request.blocks)
            )
            batch.tokens.extend(token if token < self._vocab.draft else 0 for token in part.tokens)
            batch.positions.extend(range(part.start, end))
            if part.draws:
                batch.output_rows.append(len(batch.tokens) - 1)
        self._guesses.guess(
            batch, {part.request: found[part.request] for part in parts if part.draws}
        )
        if self._costs is not None:
            tokens, context = len(batch.tokens) - len(parts), sum(part.start for part in parts)
            self._costs.draft.learn(self._clock() - began, tokens, len(parts), context)

    def _follow(self, request: Request) -> None:
        """Find out what of the draft's KV is that of the request's tokens."""
        found = self._sequences.setdefault(request, _Sequence())
        if found.table is not request.blocks:
            found.table, found.guessed = request.blocks, []
            found.named = self._named_blocks(request)
            found.computed = found.named * self._size
        said = request.tokens[found.computed :] if found.guessed else []
        right = agreed(found.guessed, said)
        found.acceptance.learn(right, min(right + 1, len(found.guessed), len(said)))
        if self._keeps:
            found.computed += min(right, max(0, len(found.guessed) - 1))
        found.guessed = []
        if request.forked:  # what it writes next becomes a block of its own
            tail = request.computed // self._size
            found.computed = min(found.computed, tail * self._size)
            found.named = min(found.named, tail)
        self._note_names(request, found)

    def _named_blocks(self, request: Request) -> int:
        """Return how many leading blocks of a table hold the KV of the request's tokens."""
        full = request.computed // self._size
        for index, name in enumerate(request.full_block_names(self._size, full)):
            if self._names[request.blocks[index]] != name:
                return index
        return full

    def _note_names(self, request: Request, found: _Sequence) -> None:
        full = found.computed // self._size
        if full > found.named:
            names = request.full_block_names(self._size, full)
            for index in range(found.named, full):
                self._names[request.blocks[index]] = names[index]
            found.named = full


def _context(running: Sequence[Request]) -> int:
    return sum(request.computed for request in running)


def _goes_on(request: Request) -> bool:
    """Return whether more than one token is to come: a single one needs no guess."""
    return request.max_length - len(request.tokens) > 1
