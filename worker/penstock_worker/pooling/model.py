"""A model that computes inputs: an encoder, or a decoder whose states are pooled."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from penstock_worker.attention.interface import Sequence as Rowed
from penstock_worker.attention.interface import StepAttention
from penstock_worker.model.config import ModelConfig, UnsupportedModel
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.model.weights import Weights
from penstock_worker.native.encoder import NativeEncoder
from penstock_worker.pooling.attention import PackedAttention
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.encoder import Encoder
from penstock_worker.pooling.heads import Head, score_head, vector_head
from penstock_worker.pooling.inputs import Input, Rows, packed
from penstock_worker.pooling.recipe import Recipe
from penstock_worker.pooling.weights import EncoderWeights

States = Callable[[Rows], Tensor]
"""Returns the last layer's states, [tokens, hidden]."""

_BODY = "model."
"""Prefix of a decoder's tensors, which exports without a head leave out."""


class PoolingModel:
    """Computes inputs in batches.

    Args:
        states: the network.
        head: makes a vector or a score of an input's states.
        device: where the network is.
    """

    def __init__(self, states: States, head: Head, device: torch.device) -> None:
        self._states = states
        self._head = head
        self._device = device

    @torch.inference_mode()
    def compute(self, inputs: Sequence[Input]) -> Tensor:
        """Return what comes of each input, float32 [inputs, width], on the CPU."""
        order = sorted(range(len(inputs)), key=lambda place: len(inputs[place].tokens))
        rows = packed([inputs[place] for place in order], self._device)
        found = self._head(self._states(rows), rows.lengths).cpu()
        whole = torch.empty_like(found)
        whole[order] = found
        return whole


def load_encoder(
    folder: Path, config: EncoderConfig, recipe: Recipe, how: ExecutionConfig
) -> PoolingModel:
    """Return the encoder in `folder`.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
    """
    with Checkpoint(folder, how.dtype, how.device) as checkpoint:
        weights = EncoderWeights(config, checkpoint)
        encoder = (
            Encoder(config, weights)
            if how.kernels is None
            else NativeEncoder(how.kernels, config, weights, how.threads)
        )
        head = score_head(config, checkpoint) if config.scores else vector_head(recipe)
        checkpoint.refuse_leftovers(  # a pooler's output was never trained to be compared
            "pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"
        )
    return PoolingModel(encoder.states, head, how.device)


def load_decoder(
    folder: Path,
    config: ModelConfig,
    recipe: Recipe,
    max_tokens: int,
    how: ExecutionConfig,
) -> PoolingModel:
    """Return the decoder in `folder`, whose states are pooled; it needs no head.

    PyTorch computes it, whatever computes encoders: the native decoder reads keys from a pool.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
    """
    if config.score_cap or config.latent:
        raise UnsupportedModel("config.json: its attention is not supported with pooled states")
    with _Bodies(folder, how.dtype, how.device) as checkpoint:
        weights = Weights(replace(config, tie_word_embeddings=True), checkpoint)
        weights.head = weights.embeddings[:1]  # nobody asks for logits
        decoder = TorchDecoder(config, weights, _Elsewhere(), max_tokens)

    def states(rows: Rows) -> Tensor:
        attention = PackedAttention(
            rows.parts, config.query_scale, causal=True, windows=config.windows, device=how.device
        )
        return decoder.hidden(rows.tokens, rows.positions, attention)

    return PoolingModel(states, vector_head(recipe), how.device)


class _Bodies(Checkpoint):
    """A decoder's tensors under the names that they have in a model with a head."""

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name) or super().__contains__(name.removeprefix(_BODY))

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """See `Checkpoint.take`."""
        whole = super().__contains__(name)
        return super().take(name if whole else name.removeprefix(_BODY), shape, dtype)


class _Elsewhere:
    """Attention comes with every step."""

    def begin(self, sequences: list[Rowed]) -> StepAttention:
        """See `AttentionBackend.begin`."""
        raise NotImplementedError
