"""Gives adapters to the native kernels, and says which sequence of a step has which."""

import ctypes
from collections.abc import Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock_worker.lora.adapter import Adapter, module_shapes
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Batch
from penstock_worker.native.library import DOWN, GATE, OUTPUT, QKV, UP

BASE = -1
"""The number of no adapter."""


class NativeAdapters:
    """The adapters of one native decoder.

    Args:
        library: the kernels.
        handle: the decoder.
        adapters: to give to it.
        config: the shape of its model.

    Raises:
        MemoryError: they do not fit.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        handle: int,
        adapters: Sequence[Adapter],
        config: ModelConfig,
    ) -> None:
        self._library = library
        self._handle = handle
        self._numbers = {adapter.name: number for number, adapter in enumerate(adapters)}
        self._kept: list[Tensor] = []
        query, kv = (module_shapes(config)[name][0] for name in ("q_proj", "k_proj"))
        # By the input that they share: the linear layers, and at which output each module begins.
        self._groups = (
            (QKV, (("q_proj", QKV, 0), ("k_proj", QKV, query), ("v_proj", QKV, query + kv))),
            (OUTPUT, (("o_proj", OUTPUT, 0),)),
            (GATE, (("gate_proj", GATE, 0), ("up_proj", UP, 0))),
            (DOWN, (("down_proj", DOWN, 0),)),
        )
        for number, adapter in enumerate(adapters):
            for layer in range(config.num_layers):
                self._set(number, adapter, layer)

    def numbers(self, batch: Batch) -> NDArray[numpy.int32] | None:
        """Return the number of each sequence's adapter; None where there are none."""
        if not self._numbers or not any(batch.adapters):
            return None
        found = [self._numbers[name] if name else BASE for name in batch.adapters]
        return numpy.array(found, dtype=numpy.int32)

    def _set(self, number: int, adapter: Adapter, layer: int) -> None:
        matrices = adapter.layers[layer]
        failed = 0
        for reducing, modules in self._groups:
            found = [(matrices[name], at, first) for name, at, first in modules if name in matrices]
            if not found:
                continue
            a = torch.cat([matrix.a for matrix, _, _ in found])
            self._kept.append(a)
            failed += self._library.penstock_set_reduction(
                self._handle, layer, reducing, number, len(a), a.data_ptr()
            )
            begin = 0
            for matrix, linear, first in found:
                outputs, rank = matrix.b.shape
                failed += self._library.penstock_add_expansion(
                    self._handle, layer, linear, number, begin, rank, first, outputs,
                    matrix.b.data_ptr(),
                )  # fmt: skip
                begin += rank
        if failed:
            raise MemoryError(f"the adapter {adapter.name} does not fit into memory")
