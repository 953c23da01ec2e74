"""The encoder whose whole pass over its inputs is one native call."""

import ctypes
import weakref
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from penstock_worker.native import library as native
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.inputs import Rows
from penstock_worker.pooling.weights import Affine, EncoderLayerWeights, EncoderWeights

_ACTIVATIONS: Final = {"gelu": 0, "gelu_tanh": 1, "relu": 2, "silu": 3}
_QKV, _OUTPUT, _UP, _DOWN = range(4)


class NativeEncoder:
    """An encoder that is computed by the kernels in `kernels/`.

    Sums, norms and states are float32, whatever the weights are stored in. An input's states do not
    depend on what is computed beside it.

    Args:
        path: the compiled library.
        config: the encoder's shape.
        weights: its tensors, float32 or bfloat16, which is how they are stored.
        threads: that compute a step, this one among them.

    Raises:
        MemoryError: the packed weights do not fit.
    """

    def __init__(
        self, path: Path, config: EncoderConfig, weights: EncoderWeights, threads: int
    ) -> None:
        self._library = native.load_library(path)
        self._hidden = config.hidden_size
        self._two_types = config.two_types
        self._kept: list[Tensor] = []
        narrow = weights.words.dtype is torch.bfloat16
        self._kind = native.KINDS["bfloat16" if narrow else "float32"]
        shape = native.EncoderShape(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_layers,
            heads=config.num_heads,
            threads=threads,
            activation=_ACTIVATIONS[config.activation],
            words_bf16=narrow,
            first_position=config.first_position,
            eps=config.norm_eps,
        )
        tables = native.EncoderTables(
            words=self._keep(weights.words),
            positions=self._keep(weights.positions.float()),
            types=self._keep(weights.types.float()),
            norm=self._keep(weights.norm.weight.float()),
            norm_bias=self._keep(weights.norm.bias.float()),
        )
        self._handle = self._library.penstock_create_encoder(
            ctypes.byref(shape), ctypes.byref(tables)
        )
        if not self._handle:
            raise MemoryError("the native kernels could not allocate their buffers")
        weakref.finalize(self, self._library.penstock_destroy_encoder, self._handle)
        for index, layer in enumerate(weights.layers()):
            self._set_layer(index, layer)

    def states(self, rows: Rows) -> Tensor:
        """Return the last layer's states, float32 [tokens, hidden]."""
        found = torch.empty(len(rows.tokens), self._hidden)
        step = native.EncoderStep(
            len(rows.lengths),
            rows.lengths.data_ptr(),
            rows.tokens.data_ptr(),
            rows.positions.data_ptr(),
            rows.types.data_ptr() if self._two_types else None,
            found.data_ptr(),
        )
        if self._library.penstock_encode(self._handle, ctypes.byref(step)):
            raise MemoryError("the native kernels could not allocate a step's buffers")
        return found

    def _set_layer(self, index: int, layer: EncoderLayerWeights) -> None:
        described = native.EncoderLayer(
            attention_norm=self._keep(layer.attention_norm.weight.float()),
            attention_norm_bias=self._keep(layer.attention_norm.bias.float()),
            norm=self._keep(layer.norm.weight.float()),
            norm_bias=self._keep(layer.norm.bias.float()),
        )
        self._library.penstock_set_encoder_layer(self._handle, index, ctypes.byref(described))
        for which, linear in (
            (_QKV, layer.qkv),
            (_OUTPUT, layer.output),
            (_UP, layer.up),
            (_DOWN, layer.down),
        ):
            self._set_linear(index, which, linear)

    def _set_linear(self, layer: int, which: int, of: Affine) -> None:
        weight, bias = of.weight.float().contiguous(), of.bias.float().contiguous()
        failed = self._library.penstock_set_encoder_linear(
            self._handle,
            layer,
            which,
            self._kind,
            *weight.shape,
            weight.data_ptr(),
            bias.data_ptr(),
        )
        if failed:
            raise MemoryError("the packed weights do not fit into memory")

    def _keep(self, tensor: Tensor) -> int:
        """Return the address of a tensor's data, which lives as long as this encoder."""
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()
