"""Turns a scheduled step into a batch, runs the model, and samples."""

import torch

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch, Model
from penstock_worker.request import Request
from penstock_worker.runner_interface import Sampled
from penstock_worker.sampling import Row, sample
from penstock_worker.scheduler import Slice


class ModelRunner:
    """Runs a model and draws from what it predicts."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @torch.inference_mode()
    def run(self, slices: list[Slice]) -> list[Sampled]:
        """See `Runner.run`."""
        batch = _batch(slices)
        rows = [_row(part.request) for part in slices if part.samples]
        if all(row.plain for row in rows):
            return [(token, None) for token in self._model.greedy(batch)]
        chosen, logprobs = sample(self._model.logits(batch), rows)
        return list(zip(chosen, logprobs, strict=True))


def _batch(slices: list[Slice]) -> Batch:
    batch = Batch(tokens=[], positions=[], sequences=[], output_rows=[])
    for part in slices:
        end = part.start + part.count
        first = len(batch.tokens)
        batch.sequences.append(Sequence(first, part.count, part.start, part.request.blocks))
        batch.tokens.extend(part.request.tokens[part.start : end])
        batch.positions.extend(range(part.start, end))
        if part.samples:
            batch.output_rows.append(len(batch.tokens) - 1)
    return batch


def _row(request: Request) -> Row:
    early = request.output_length < request.min_tokens
    return Row(
        sampling=request.sampling,
        tokens=request.tokens,
        prompt_length=request.prompt_length,
        forbidden=tuple(request.stop_tokens) if early else (),
        allowed=request.allowed,
    )
