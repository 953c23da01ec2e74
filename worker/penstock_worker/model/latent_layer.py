"""A layer's latent attention in PyTorch, between the projection in and the one out."""

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import StepAttention
from penstock_worker.model.latent_config import LatentConfig
from penstock_worker.model.latent_weights import EPS, LatentWeights
from penstock_worker.model.layers import Linear, rotate


class LatentLayer:
    """Makes queries and latents of what the projection gives, and attends.

    Args:
        config: the shape.
        weights: of the layer.
        heads: of queries.
        quantization: of its linear layer.
        dtype: that it computes in.
    """

    def __init__(
        self,
        config: LatentConfig,
        weights: LatentWeights,
        heads: int,
        quantization: str,
        dtype: torch.dtype,
    ) -> None:
        self._config = config
        self._heads = heads
        self._norm = weights.norm.to(dtype)
        self._query_norm = None if weights.query_norm is None else weights.query_norm.to(dtype)
        self._query_up = (
            None if weights.query_up is None else Linear(weights.query_up, None, quantization)
        )

    def attend(
        self, index: int, projected: Tensor, cos: Tensor, sin: Tensor, attention: StepAttention
    ) -> Tensor:
        """Return what heads found, [tokens, heads × value_dim].

        projected [tokens, query width + rank + rotary_dim]; cos and sin [tokens, 1, rotary_dim].
        """
        config = self._config
        query, latent, key = torch.split(
            projected, [projected.shape[-1] - config.kept, config.rank, config.rotary_dim], -1
        )
        if self._query_up is not None:
            query = self._query_up(_normed(query, self._query_norm))
        query = query.view(len(query), self._heads, -1)
        plain, rotary = torch.split(query, [config.plain_dim, config.rotary_dim], -1)
        query = torch.cat([plain, rotate(rotary, cos, sin)], -1)
        key = rotate(key[:, None], cos, sin)
        return attention.attend(index, query, key, _normed(latent, self._norm)[:, None])


def _normed(x: Tensor, weight: Tensor | None) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, EPS)
