"""Hands the experts of a layer to the native decoder, one at a time."""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from penstock_worker.model.expert_weights import MlpWeights, SparseWeights
from penstock_worker.native import library as native

ROUTER = -1
_FULL = "the packed weights of the experts do not fit into memory"


class NativeExperts:
    """The experts of a native decoder's layers.

    Args:
        library: the kernels.
        handle: the decoder.
        kind: how the experts' weights are stored; the router's stay float32.
        keep: returns the address of a tensor's data, and lets it live as long as the decoder.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        handle: int,
        kind: int,
        keep: Callable[[Tensor | None], int | None],
    ) -> None:
        self._library = library
        self._handle = handle
        self._kind = kind
        self._keep = keep

    def set(self, layer: int, weights: SparseWeights) -> None:
        """Give a layer its experts.

        Raises:
            MemoryError: they do not fit.
        """
        described = self._described(weights)
        failed = self._library.penstock_set_experts(self._handle, layer, ctypes.byref(described))
        if failed:
            raise MemoryError(_FULL)
        router = weights.router
        if weights.shared_gate is not None:
            router = torch.cat([router, weights.shared_gate])
        self._set(layer, ROUTER, 0, native.KINDS["float32"], router)
        for index, expert in enumerate(weights.experts):
            self._set_expert(layer, index, expert)
        if weights.shared is not None:
            self._set_expert(layer, weights.config.count, weights.shared)

    def _described(self, weights: SparseWeights) -> native.Experts:
        config = weights.config
        return native.Experts(
            count=config.count,
            per_token=config.per_token,
            inner=config.intermediate_size,
            shared_inner=config.shared_intermediate_size,
            sigmoid=config.scoring == "sigmoid",
            normalized=config.normalized,
            groups=config.groups,
            chosen_groups=config.chosen_groups,
            group_best=config.group_best,
            shared_gated=config.shared_gated,
            scaling=config.scaling,
            correction_bias=self._keep(weights.correction_bias),
        )

    def _set_expert(self, layer: int, index: int, expert: MlpWeights) -> None:
        for which, weight in enumerate((expert.gate, expert.up, expert.down)):
            self._set(layer, index, which, self._kind, weight)

    def _set(self, layer: int, expert: int, which: int, kind: int, weight: Tensor) -> None:
        weight = weight.float().contiguous()
        failed = self._library.penstock_set_expert(
            self._handle, layer, expert, which, kind, *weight.shape, weight.data_ptr()
        )
        if failed:
            raise MemoryError(_FULL)
