"""Turns a scheduled step into a batch, runs the model, and samples."""

from collections.abc import Iterator, Sequence
from itertools import islice
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from penstock_worker.attention import interface
from penstock_worker.attention.pool import BlockCopier
from penstock_worker.messages import TokenLogprobs
from penstock_worker.model.interface import Batch, Model
from penstock_worker.penalties import TokenHistory, penalised
from penstock_worker.request import Request
from penstock_worker.runner_interface import SampledToken, SliceOutput
from penstock_worker.sampling import Guess, Row, sample, score
from penstock_worker.step import Slice


class ModelRunner:
    """Runs a model and draws from what it predicts.

    Args:
        model: computes.
        pool: keeps its KV.
    """

    def __init__(self, model: Model, pool: BlockCopier) -> None:
        self._model = model
        self._pool = pool
        self._histories: WeakKeyDictionary[Request, TokenHistory] = WeakKeyDictionary()

    @torch.inference_mode()
    def run(
        self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
    ) -> list[SliceOutput]:
        """See `Runner.run`."""
        for source, target in copies:
            self._pool.copy(source, target)
        batch = _batch(slices)
        rows = [_rows(part, self._history(part.request)) for part in slices]
        plain = all(row.plain for found in rows for row in found)
        if plain and not any(part.request.unscored for part in slices):
            likeliest = map(SampledToken, self._model.greedy(batch))
            return [SliceOutput(list(islice(likeliest, len(found)))) for found in rows]
        return _sampled(self._model.logits(batch), slices, rows)

    def _history(self, request: Request) -> TokenHistory | None:
        """Return what penalties look at, if the request asks for any."""
        if not penalised(request.sampling):
            return None
        history = self._histories.get(request)
        if history is None:
            history = self._histories[request] = TokenHistory(request.prompt_length)
        return history.follow(request.tokens)


def _sampled(logits: Tensor, slices: Sequence[Slice], rows: list[list[Row]]) -> list[SliceOutput]:
    """Score and draw. Of each slice, rows to score come first, then those to draw from."""
    scores: list[list[TokenLogprobs]] = []
    places: list[int] = []
    first = 0
    for part, found in zip(slices, rows, strict=True):
        ends = [first + len(part.scored), first + len(part.scored) + len(found)]
        tokens = [part.request.tokens[position] for position in part.scored]
        wanted = part.request.prompt_logprobs or 0
        scores.append(score(logits[first : ends[0]], tokens, wanted) if tokens else [])
        places += range(*ends)
        first = ends[1]
    drawn = _tokens(logits if len(places) == first else logits[places], rows)
    return [
        SliceOutput(list(islice(drawn, len(found))), scored)
        for found, scored in zip(rows, scores, strict=True)
    ]


def _tokens(logits: Tensor, rows: list[list[Row]]) -> Iterator[SampledToken]:
    chosen, logprobs = sample(logits, [row for found in rows for row in found])
    return map(SampledToken, chosen, logprobs)


def _batch(slices: Sequence[Slice]) -> Batch:
    batch = Batch(tokens=[], positions=[], sequences=[], output_rows=[])
    for part in slices:
        request, start, known = part.request, part.start, part.start + part.count
        width = part.count + len(part.drafts)
        first = len(batch.tokens)
        sequence = interface.Sequence(first, width, start, request.blocks, request.prompt_length)
        batch.sequences.append(sequence)
        batch.adapters.append(request.weights)
        batch.tokens.extend(request.tokens[start:known])
        if part.drafts:
            batch.tokens.extend(part.drafts)
        batch.positions.extend(range(start, start + width))
        if request.unscored:
            batch.output_rows.extend(first - start + place - 1 for place in part.scored)
        if known == len(request.tokens):
            batch.output_rows.extend(range(first + part.count - 1, first + width))
    return batch


def _rows(part: Slice, history: TokenHistory | None) -> list[Row]:
    """Return what each draw of a slice is made with: as if the drafts before it were known."""
    if not part.samples:
        return []
    rows = [_row(part, 0, history)]
    for count in range(1, len(part.drafts) + 1):
        guessed = None if history is None else history.beyond(part.drafts[:count])
        rows.append(_row(part, count, guessed))
    return rows


def _row(part: Slice, guessed: int, history: TokenHistory | None) -> Row:
    request = part.request
    position = request.output_length + guessed
    return Row(
        sampling=request.sampling,
        position=position,
        forbidden=tuple(request.stop_tokens) if position < request.min_tokens else (),
        allowed=request.allowed[guessed] if request.allowed else b"",
        history=history,
        guess=_guess(part, guessed),
    )


def _guess(part: Slice, place: int) -> Guess | None:
    """Return what stands behind so many drafts, if it was drawn and may be rejected."""
    if place >= min(len(part.drafts), len(part.request.probabilities)):
        return None
    return Guess(part.drafts[place], part.request.probabilities[place])
