"""Adds to a step's linear layers what the adapters of its sequences say, with PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from penstock_worker.lora.adapter import Adapter, LowRank, module_shapes
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Batch

FUSED: Final = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The linear layers that are computed as one, side by side."""

Layers = tuple[Mapping[str, LowRank], ...]


class Deltas:
    """The adapters of a decoder.

    Args:
        adapters: those that requests may name.
        config: the shape of the model.
    """

    def __init__(self, adapters: Sequence[Adapter], config: ModelConfig) -> None:
        self._layers = {adapter.name: adapter.layers for adapter in adapters}
        self._widths = {name: shape[0] for name, shape in module_shapes(config).items()}

    def prepare(self, adapter: Adapter) -> Layers:
        """See `AdapterHost.prepare`."""
        return adapter.layers

    def add(self, name: str, prepared: Layers) -> None:
        """See `AdapterHost.add`."""
        self._layers[name] = prepared

    def drop(self, name: str) -> None:
        """See `AdapterHost.drop`."""
        del self._layers[name]

    def begin(self, batch: Batch) -> "StepDeltas":
        """Return what a step's rows get."""
        rows: dict[str, list[int]] = {}
        if self._layers:
            for sequence, name in zip(batch.sequences, batch.adapters, strict=True):
                if name:
                    found = range(sequence.first_row, sequence.first_row + sequence.count)
                    rows.setdefault(name, []).extend(found)
        groups = [(torch.tensor(found), self._layers[name]) for name, found in rows.items()]
        return StepDeltas(groups, self._widths)


class StepDeltas:
    """One step: the rows of each adapter that it has."""

    def __init__(self, groups: Sequence[tuple[Tensor, Layers]], widths: Mapping[str, int]) -> None:
        self._groups = groups
        self._widths = widths

    def add(self, layer: int, fused: str, x: Tensor, y: Tensor) -> Tensor:
        """Return y, changed in place: y += x Aᵀ Bᵀ for the rows and columns that have a delta.

        x [rows, inputs]; y [rows, outputs of the linear layers in FUSED[fused]].
        """
        for rows, layers in self._groups:
            first = 0
            for module in FUSED[fused]:
                end = first + self._widths[module]
                found = layers[layer].get(module)
                if found is not None:
                    delta = x[rows].float() @ found.a.T @ found.b.T
                    y[rows, first:end] += delta.to(y.dtype)
                first = end
        return y


NO_DELTAS: Final = StepDeltas((), {})
"""Of a step without adapters."""
