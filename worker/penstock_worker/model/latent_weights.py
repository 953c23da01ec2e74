"""The tensors of latent attention, as the decoder uses them.

Rotary positions turn a head's halves against each other here. Checkpoints that have the two numbers
that are turned together side by side are rearranged once: queries and keys alike, so scores stay.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.attention.latent import Expansion
from penstock_worker.model.latent_config import LatentConfig

EPS = 1e-6
"""Of the norms within latent attention, whatever rms_norm_eps says."""

Take = Callable[..., Tensor]
"""Of a tensor of the layer's attention: its name and shape."""


@dataclass(frozen=True)
class LatentWeights:
    """What latent attention has besides a projection in and one out. Norms are float32."""

    norm: Tensor
    """[rank]"""
    query_norm: Tensor | None
    """[query_rank]; None, as the next, where queries are made directly."""
    query_up: Tensor | None
    """[heads × (plain_dim + rotary_dim), query_rank]"""


def read_latent(take: Take, heads: int, config: LatentConfig) -> LatentWeights:
    """Return the weights of a layer."""
    rank = config.query_rank
    norm = take("kv_a_layernorm.weight", config.rank).float()
    if not rank:
        return LatentWeights(norm, None, None)
    up = take("q_b_proj.weight", heads * config.query_dim, rank)
    return LatentWeights(
        norm, take("q_a_layernorm.weight", rank).float(), _halved(up, heads, config)
    )


def read_projection(take: Take, heads: int, hidden: int, config: LatentConfig) -> Tensor:
    """Return what a layer's input is multiplied with, [out, hidden].

    The first rows give queries, or what they are made from; then latent and rotary key follow.
    """
    kept = _halved(take("kv_a_proj_with_mqa.weight", config.kept, hidden), 1, config)
    if config.query_rank:
        return torch.cat([take("q_a_proj.weight", config.query_rank, hidden), kept])
    queries = take("q_proj.weight", heads * config.query_dim, hidden)
    return torch.cat([_halved(queries, heads, config), kept])


def read_expansion(take: Take, heads: int, config: LatentConfig) -> Expansion:
    """Return what makes keys and values of latents."""
    rows = config.plain_dim + config.value_dim
    found = take("kv_b_proj.weight", heads * rows, config.rank).view(heads, rows, -1)
    keys, values = torch.split(found, [config.plain_dim, config.value_dim], 1)
    return Expansion(keys.contiguous(), values.contiguous())


def _halved(weight: Tensor, heads: int, config: LatentConfig) -> Tensor:
    """Return a weight whose heads end in a rotary part, with that part's even rows first."""
    if not config.interleaved:
        return weight
    parts = weight.view(heads, -1, weight.shape[-1])
    plain, rotary = torch.split(parts, [parts.shape[1] - config.rotary_dim, config.rotary_dim], 1)
    return torch.cat([plain, rotary[:, 0::2], rotary[:, 1::2]], 1).view(weight.shape)
