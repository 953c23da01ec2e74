"""A layer's experts in plain PyTorch: a router chooses, and each expert sees its tokens at once.

Tokens are sorted by expert, so an expert is one MLP over the rows that chose it; one that nobody
chose costs nothing.
"""

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.lora.deltas import StepDeltas
from penstock_worker.model.expert_weights import SparseWeights
from penstock_worker.model.experts_config import ExpertsConfig
from penstock_worker.model.mlp import Activation, Mlp

_TINY = 1e-20
"""Keeps a sum of weights that all vanish from being zero, as DeepSeek-V3 does."""


class Router:
    """Chooses the experts of each token, in float32.

    Limits to groups are DeepSeek-V2's (2024, §2.2.2); choosing with a bias that does not weigh is
    DeepSeek-V3's (2024, §2.1.2).

    Args:
        config: how it chooses.
        weight: [experts, hidden]
        correction_bias: [experts], or None
    """

    def __init__(
        self, config: ExpertsConfig, weight: Tensor, correction_bias: Tensor | None
    ) -> None:
        self._config = config
        self._weight = weight
        self._bias = correction_bias

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return each token's experts and their weights.

        x [tokens, hidden]; results [tokens, per_token], int64 and float32.
        """
        config = self._config
        products = functional.linear(x.float(), self._weight)
        scores = products.sigmoid() if config.scoring == "sigmoid" else products.softmax(-1)
        ranked = self._within_groups(scores if self._bias is None else scores + self._bias)
        # Among equals the first, as the native kernels take it.
        chosen = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : config.per_token]
        weights = scores.gather(1, chosen)
        if config.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + _TINY)
        return chosen, weights * config.scaling

    def _within_groups(self, scores: Tensor) -> Tensor:
        """Return the scores, with those of groups that are not chosen at minus infinity."""
        config = self._config
        if config.chosen_groups == config.groups:
            return scores
        grouped = scores.view(len(scores), config.groups, -1)
        best = grouped.topk(config.group_best, -1).values.sum(-1)
        kept = best.sort(dim=-1, descending=True, stable=True).indices[:, : config.chosen_groups]
        outside = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept, False)
        return grouped.masked_fill(outside[:, :, None], -torch.inf).view_as(scores)


class Experts:
    """y = Σ weight · expert(x) over the experts that the router chooses, and the shared one.

    Args:
        weights: of one layer.
        activation: of the experts.
        quantization: of their linear layers' weights.
    """

    def __init__(self, weights: SparseWeights, activation: Activation, quantization: str) -> None:
        self._router = Router(weights.config, weights.router, weights.correction_bias)
        self._shared_gate = weights.shared_gate
        self._shared = (
            None if weights.shared is None else Mlp(weights.shared, activation, quantization)
        )
        self._experts = [Mlp(expert, activation, quantization) for expert in weights.experts]

    def __call__(self, x: Tensor, _deltas: StepDeltas, _layer: int) -> Tensor:
        """Return y; adapters change no experts. x, y [tokens, hidden]."""
        chosen, weights = self._router(x)
        found = torch.zeros_like(x, dtype=torch.float32)
        order = chosen.flatten().argsort(stable=True)
        ends = chosen.flatten().bincount(minlength=len(self._experts)).cumsum(0)
        for expert, pairs in zip(self._experts, order.tensor_split(ends[:-1]), strict=True):
            if len(pairs):
                rows = pairs // chosen.shape[1]
                part = expert(x[rows]).float() * weights.flatten()[pairs, None]
                found.index_add_(0, rows, part)
        return (found + self._of_shared(x)).to(x.dtype)

    def _of_shared(self, x: Tensor) -> Tensor | float:
        if self._shared is None:
            return 0.0
        y = self._shared(x).float()
        if self._shared_gate is None:
            return y
        return y * functional.linear(x.float(), self._shared_gate).sigmoid()
