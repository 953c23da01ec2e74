"""Settings of attention to the blocks that can matter (Tang et al., "Quest", ICML 2024).

A token of an answer that has more context than a budget reads, in each layer and for each KV head,
the blocks of KV whose keys can have the largest products with its queries, as bounds of these tell
(`native/kernels/selection.h`). Tokens of prompts read everything. So what a token reads follows
from the request, not from how it is computed: decoded, checked as a guess, or computed again.
"""

from dataclasses import dataclass
from typing import Final

import torch

from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig

FLAG: Final = "--sparse-attention-tokens"

DENSE_LAYERS: Final = 2
"""First layers, which read everything: their attention lies on far more tokens than that of those
behind them, in the models that the paper measured."""

LEAST_BLOCKS: Final = 4
"""The first, the last, the token's own, and one to choose."""


@dataclass(frozen=True)
class Sparsity:
    """What answers read.

    Args:
        blocks: that a token reads, in a layer and for a KV head; 0 for all.
        block_size: tokens per block.
        layers: in which it does.
    """

    blocks: int
    block_size: int
    layers: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of a context that is read whole; 0 for any."""
        return self.blocks * self.block_size


DENSE: Final = Sparsity(0, 0, ())
"""Everything."""


def read_sparsity(config: EngineConfig, shape: ModelConfig) -> Sparsity:
    """Return what answers read.

    Raises:
        ValueError: it cannot be had beside another setting, or with this model; names both.
    """
    tokens = config.sparse_attention_tokens
    if not tokens:
        return DENSE
    layers = sparse_layers(shape)
    for refused, setting, fix in (
        (bool(shape.latent), "latent attention (DeepSeek)", f"leave {FLAG} out"),
        (not layers, "a model of few layers, or whose layers slide", f"leave {FLAG} out"),
        (config.tensor_parallel_size > 1, "--tensor-parallel-size", f"use 1, or leave {FLAG} out"),
        (config.kv_cache_dtype == "int8_per_token_head", "--kv-cache-dtype", "use bfloat16"),
        (config.transfer is not None, "--kv-transfer", "leave it out"),
        (config.tier is not None, "--kv-tier-disk", "leave it out"),
    ):
        if refused:
            raise ValueError(f"{FLAG} {tokens} does not go with {setting}: {fix}")
    blocks = -(-tokens // config.block_size)
    if blocks < LEAST_BLOCKS:
        least = LEAST_BLOCKS * config.block_size
        raise ValueError(
            f"{FLAG} {tokens}: blocks have {config.block_size} tokens (--block-size), and a token "
            f"reads {LEAST_BLOCKS} of them at least: use {least} or more"
        )
    return Sparsity(blocks, config.block_size, layers)


def sparse_layers(shape: ModelConfig) -> tuple[int, ...]:
    """Return the layers in which answers choose; those that slide read little anyway."""
    found = enumerate(shape.windows)
    return tuple(layer for layer, window in found if layer >= DENSE_LAYERS and not window)


def bounds_bytes(shape: ModelConfig, sparsity: Sparsity, dtype: torch.dtype) -> int:
    """Return the memory of a block's bounds, in all layers: as much as a token's KV there."""
    return 2 * len(sparsity.layers) * shape.num_kv_heads * shape.head_dim * dtype.itemsize
