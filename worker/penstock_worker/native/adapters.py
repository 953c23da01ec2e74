"""Gives adapters to the native kernels, and says which sequence of a step has which."""

import ctypes
import weakref
from collections.abc import Sequence
from itertools import count

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


class PackedAdapter:
    """An adapter as the kernels compute it, packed but not yet given to a decoder."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self.handle = handle
        self.kept: list[Tensor] = []
        """What the kernels read where it lies."""
        weakref.finalize(self, library.penstock_destroy_adapter, handle)


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
        self._numbers: dict[str, int] = {}
        self._packed: dict[str, PackedAdapter] = {}
        query, kv = (module_shapes(config)[name][0] for name in ("q_proj", "k_proj"))
        # By the input that they share: the linear layers, and at which output each module begins.
        self._groups = (
            (QKV, (("q_proj", QKV, 0), ("k_proj", QKV, query), ("v_proj", QKV, query + kv))),
            (OUTPUT, (("o_proj", OUTPUT, 0),)),
            (GATE, (("gate_proj", GATE, 0), ("up_proj", UP, 0))),
            (DOWN, (("down_proj", DOWN, 0),)),
        )
        for adapter in adapters:
            self.add(adapter.name, self.prepare(adapter))

    def numbers(self, batch: Batch) -> NDArray[numpy.int32] | None:
        """Return the number of each sequence's adapter; None where there are none."""
        if not self._numbers or not any(batch.adapters):
            return None
        found = [self._numbers[name] if name else BASE for name in batch.adapters]
        return numpy.array(found, dtype=numpy.int32)

    def prepare(self, adapter: Adapter) -> PackedAdapter:
        """See `AdapterHost.prepare`.

        Raises:
            MemoryError: it does not fit.
        """
        handle = self._library.penstock_create_adapter(self._handle)
        if not handle:
            raise MemoryError("the adapter does not fit into memory")
        packed = PackedAdapter(self._library, handle)
        for layer in range(len(adapter.layers)):
            self._pack(packed, adapter, layer)
        return packed

    def add(self, name: str, prepared: PackedAdapter) -> None:
        """See `AdapterHost.add`."""
        taken = set(self._numbers.values())
        number = next(number for number in count() if number not in taken)
        if self._library.penstock_put_adapter(self._handle, number, prepared.handle):
            raise MemoryError("the adapter does not fit into memory")
        self._numbers[name], self._packed[name] = number, prepared

    def drop(self, name: str) -> None:
        """See `AdapterHost.drop`."""
        self._library.penstock_drop_adapter(self._handle, self._numbers.pop(name))
        del self._packed[name]

    def _pack(self, packed: PackedAdapter, adapter: Adapter, layer: int) -> None:
        matrices = adapter.layers[layer]
        failed = 0
        for reducing, modules in self._groups:
            found = [(matrices[name], at, first) for name, at, first in modules if name in matrices]
            if not found:
                continue
            a = torch.cat([matrix.a for matrix, _, _ in found])
            packed.kept.append(a)
            self._library.penstock_set_reduction(
                packed.handle, layer, reducing, len(a), a.data_ptr()
            )
            begin = 0
            for matrix, linear, first in found:
                outputs, rank = matrix.b.shape
                failed += self._library.penstock_add_expansion(
                    packed.handle, layer, linear, begin, rank, first, outputs,
                    matrix.b.data_ptr(),
                )  # fmt: skip
                begin += rank
        if failed:
            raise MemoryError("the adapter does not fit into memory")
