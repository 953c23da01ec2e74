"""BERT and RoBERTa in PyTorch: every token sees every other, norms come after what is added.

Rows are tokens of all inputs, one after another; nothing is padded but inside attention.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import StepAttention
from penstock_worker.model.layers import Linear
from penstock_worker.model.loader import Checkpoint
from penstock_worker.pooling.config import EncoderConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class _Layer:
    qkv: Linear
    output: Linear
    attention_norm: _Norm
    up: Linear
    down: Linear
    norm: _Norm


class Encoder:
    """From tokens to states.

    Args:
        config: its shape.
        checkpoint: its tensors, in the type that it computes in.

    Raises:
        UnsupportedModel: the tensors contradict the configuration.
    """

    def __init__(self, config: EncoderConfig, checkpoint: Checkpoint) -> None:
        self._config = config
        self._checkpoint = checkpoint
        words = "embeddings.word_embeddings.weight"
        self._prefix = "" if words in checkpoint else f"{config.family}."
        hidden = config.hidden_size
        self._words = self._take(words, config.vocab_size, hidden)
        self._positions = self._take(
            "embeddings.position_embeddings.weight", config.positions, hidden
        )
        self._types = self._take(
            "embeddings.token_type_embeddings.weight", config.token_types, hidden
        )
        self._norm = self._read_norm("embeddings")
        self._layers = [
            self._layer(f"encoder.layer.{index}.") for index in range(config.num_layers)
        ]
        self._activation = _ACTIVATIONS[config.activation]

    def states(
        self, tokens: Tensor, positions: Tensor, types: Tensor, attention: StepAttention
    ) -> Tensor:
        """Return the last layer's states.

        tokens, positions (from 0) and types [tokens]; result [tokens, hidden].
        """
        config = self._config
        heads, width = config.num_heads, config.head_dim
        x = self._words.index_select(0, tokens)
        x = x + self._positions.index_select(0, positions + config.first_position)
        x = self._norm(x + self._types.index_select(0, types))
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(x).view(-1, 3 * heads, width)
            query, key, value = torch.split(qkv, heads, 1)
            attended = attention.attend(index, query, key, value)
            x = layer.attention_norm(x + layer.output(attended))
            x = layer.norm(x + layer.down(self._activation(layer.up(x))))
        return x

    def _layer(self, prefix: str) -> _Layer:
        hidden, inner = self._config.hidden_size, self._config.intermediate_size
        parts = [f"{prefix}attention.self.{name}" for name in ("query", "key", "value")]
        return _Layer(
            qkv=Linear(
                torch.cat([self._take(f"{part}.weight", hidden, hidden) for part in parts]),
                torch.cat([self._take(f"{part}.bias", hidden) for part in parts]),
            ),
            output=self._linear(f"{prefix}attention.output.dense", hidden, hidden),
            attention_norm=self._read_norm(f"{prefix}attention.output"),
            up=self._linear(f"{prefix}intermediate.dense", inner, hidden),
            down=self._linear(f"{prefix}output.dense", hidden, inner),
            norm=self._read_norm(f"{prefix}output"),
        )

    def _linear(self, name: str, outputs: int, inputs: int) -> Linear:
        return Linear(
            self._take(f"{name}.weight", outputs, inputs), self._take(f"{name}.bias", outputs)
        )

    def _read_norm(self, at: str) -> _Norm:
        # Conversions of the first BERT checkpoints kept TensorFlow's names.
        old = f"{self._prefix}{at}.LayerNorm.gamma" in self._checkpoint
        names = ("gamma", "beta") if old else ("weight", "bias")
        weight, bias = (
            self._take(f"{at}.LayerNorm.{name}", self._config.hidden_size) for name in names
        )
        return _Norm(weight, bias, self._config.norm_eps)

    def _take(self, name: str, *shape: int) -> Tensor:
        return self._checkpoint.take(self._prefix + name, shape)
