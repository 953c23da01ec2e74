"""BERT and RoBERTa in PyTorch: every token sees every other, norms come after what is added.

Rows are tokens of all inputs, one after another; nothing is padded but inside attention.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.model.layers import Linear
from penstock_worker.pooling.attention import PackedAttention
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.inputs import Rows
from penstock_worker.pooling.weights import Affine, EncoderLayerWeights, EncoderWeights

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class _Norm:
    of: Affine
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.of.weight, self.of.bias, self.eps)


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
        weights: its tensors, in the type that it computes in.
    """

    def __init__(self, config: EncoderConfig, weights: EncoderWeights) -> None:
        self._config = config
        self._words = weights.words
        self._positions = weights.positions
        self._types = weights.types
        self._norm = _Norm(weights.norm, config.norm_eps)
        self._layers = [_layer(layer, config.norm_eps) for layer in weights.layers()]
        self._activation = _ACTIVATIONS[config.activation]

    def states(self, rows: Rows) -> Tensor:
        """Return the last layer's states, [tokens, hidden]."""
        config = self._config
        heads, width = config.num_heads, config.head_dim
        attention = PackedAttention(
            rows.parts, width**-0.5, causal=False, device=self._words.device
        )
        x = self._words.index_select(0, rows.tokens)
        x = x + self._positions.index_select(0, rows.positions + config.first_position)
        x = x + (self._types.index_select(0, rows.types) if config.two_types else self._types[0])
        x = self._norm(x)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(x).view(-1, 3 * heads, width)
            query, key, value = torch.split(qkv, heads, 1)
            attended = attention.attend(index, query, key, value)
            x = layer.attention_norm(layer.output.added(x, attended))
            x = layer.norm(layer.down.added(x, self._activation(layer.up(x))))
        return x


def _layer(weights: EncoderLayerWeights, eps: float) -> _Layer:
    return _Layer(
        qkv=_linear(weights.qkv),
        output=_linear(weights.output),
        attention_norm=_Norm(weights.attention_norm, eps),
        up=_linear(weights.up),
        down=_linear(weights.down),
        norm=_Norm(weights.norm, eps),
    )


def _linear(of: Affine) -> Linear:
    return Linear(of.weight, of.bias)
