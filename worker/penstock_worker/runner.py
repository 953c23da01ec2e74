"""Turns a scheduled step into tensors, runs the model, and samples: the only torch in the loop."""

from typing import Protocol

import torch

from penstock_worker.attention.interface import AttentionBackend, Sequence
from penstock_worker.messages import TokenLogprobs
from penstock_worker.model.decoder import Decoder
from penstock_worker.request import Request
from penstock_worker.sampling import Row, sample
from penstock_worker.scheduler import Slice

Sampled = tuple[int, TokenLogprobs | None]


class Runner(Protocol):
    """Computes slices; the engine knows no more of it."""

    def run(self, slices: list[Slice]) -> list[Sampled]:
        """Return a sampled token for every slice that reaches its last known token, in order."""


class TorchRunner:
    """Runs a decoder over an attention backend."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend) -> None:
        self._decoder = decoder
        self._attention = attention

    @torch.inference_mode()
    def run(self, slices: list[Slice]) -> list[Sampled]:
        """See `Runner.run`."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[Sequence] = []
        last_rows: list[int] = []
        rows: list[Row] = []
        for part in slices:
            end = part.start + part.count
            sequences.append(Sequence(len(tokens), part.count, part.start, part.request.blocks))
            tokens += part.request.tokens[part.start : end]
            positions += range(part.start, end)
            if part.samples:
                last_rows.append(len(tokens) - 1)
                rows.append(_row(part.request))
        hidden = self._decoder.hidden(
            torch.tensor(tokens), torch.tensor(positions), self._attention.begin(sequences)
        )
        if not rows:
            return []
        chosen, logprobs = sample(self._decoder.logits(hidden[last_rows]), rows)
        return list(zip(chosen, logprobs, strict=True))


def _row(request: Request) -> Row:
    early = request.output_length < request.min_tokens
    return Row(
        sampling=request.sampling,
        tokens=request.tokens,
        prompt_length=request.prompt_length,
        forbidden=tuple(request.stop_tokens) if early else (),
    )
