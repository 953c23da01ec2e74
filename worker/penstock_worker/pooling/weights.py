"""An encoder's tensors, read by name: what PyTorch's and the native encoder are both made of."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.model.loader import Checkpoint
from penstock_worker.pooling.config import EncoderConfig


@dataclass(frozen=True)
class Affine:
    """Of a linear layer [outputs, inputs] and [outputs], or of a norm: both [hidden]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class EncoderLayerWeights:
    """Of one layer."""

    qkv: Affine
    """Queries, keys and values below each other."""
    output: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    norm: Affine


class EncoderWeights:
    """An encoder's tensors, in the type of the checkpoint that reads them.

    Args:
        config: the encoder's shape.
        checkpoint: open as long as layers are read.

    Raises:
        UnsupportedModel: the tensors contradict the configuration.
    """

    def __init__(self, config: EncoderConfig, checkpoint: Checkpoint) -> None:
        self._config = config
        self._checkpoint = checkpoint
        words = "embeddings.word_embeddings.weight"
        self._prefix = "" if words in checkpoint else f"{config.family}."
        hidden = config.hidden_size
        self.words = self._take(words, config.vocab_size, hidden)
        self.positions = self._take(
            "embeddings.position_embeddings.weight", config.positions, hidden
        )
        self.types = self._take(
            "embeddings.token_type_embeddings.weight", config.token_types, hidden
        )
        self.norm = self._norm("embeddings")

    def layers(self) -> Iterator[EncoderLayerWeights]:
        """Yield the layers one after another, so that only one need be there twice."""
        for index in range(self._config.num_layers):
            yield self._layer(f"encoder.layer.{index}.")

    def _layer(self, prefix: str) -> EncoderLayerWeights:
        hidden, inner = self._config.hidden_size, self._config.intermediate_size
        parts = [
            self._linear(f"{prefix}attention.self.{name}", hidden, hidden)
            for name in ("query", "key", "value")
        ]
        return EncoderLayerWeights(
            qkv=Affine(
                torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            ),
            output=self._linear(f"{prefix}attention.output.dense", hidden, hidden),
            attention_norm=self._norm(f"{prefix}attention.output"),
            up=self._linear(f"{prefix}intermediate.dense", inner, hidden),
            down=self._linear(f"{prefix}output.dense", hidden, inner),
            norm=self._norm(f"{prefix}output"),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> Affine:
        return Affine(
            self._take(f"{name}.weight", outputs, inputs), self._take(f"{name}.bias", outputs)
        )

    def _norm(self, at: str) -> Affine:
        # Conversions of the first BERT checkpoints kept TensorFlow's names.
        old = f"{self._prefix}{at}.LayerNorm.gamma" in self._checkpoint
        names = ("gamma", "beta") if old else ("weight", "bias")
        weight, bias = (
            self._take(f"{at}.LayerNorm.{name}", self._config.hidden_size) for name in names
        )
        return Affine(weight, bias)

    def _take(self, name: str, *shape: int) -> Tensor:
        return self._checkpoint.take(self._prefix + name, shape)
