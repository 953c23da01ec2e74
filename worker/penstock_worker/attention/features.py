"""What a model thinks of each token, kept beside its KV for a head that guesses.

EAGLE-3 (Li et al., 2025) fuses the states of three of the model's layers into one vector. These lie
in the blocks of the model's tables: what prefix caches, preemption or the shared prompts of choices
do to KV happens to them, too.
"""

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import BlockCopier, KVPool


class FeaturePool:
    """A vector for each slot of a pool, bfloat16; memory is taken as blocks are first written.

    Args:
        num_blocks, block_size: of the pool.
        width: of the vectors.
    """

    def __init__(self, num_blocks: int, block_size: int, width: int) -> None:
        kept = KVPool(
            num_layers=1,
            num_kv_heads=1,
            head_dim=width,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=torch.bfloat16,
            latent_rank=width,  # one tensor: values are keys
        )
        self._kept = kept
        self.block_size = block_size
        self.stored = kept.keys[0].view(-1, width)
        """[slots, width]"""

    def copy(self, source: int, target: int) -> None:
        """Copy a block."""
        self._kept.copy(source, target)

    def slots(self, sequences: Ordered[Sequence]) -> Tensor:
        """Return the slot of each row of a step."""
        size = self.block_size
        return torch.tensor(
            [
                sequence.blocks[place // size] * size + place % size
                for sequence in sequences
                for place in range(sequence.computed, sequence.computed + sequence.count)
            ]
        )


@dataclass(frozen=True)
class Tap:
    """Where a model leaves features, and what it makes them of."""

    pool: FeaturePool
    layers: tuple[int, int, int]
    """Whose inputs are fused, ascending; their number stands for what the last one gives."""
    fusion: Tensor
    """[width, 3 · hidden of the model]"""


@dataclass(frozen=True)
class HeadInputs:
    """Where a head finds features, and how it takes them in."""

    pool: FeaturePool
    norm: Tensor
    """[width], float32"""
    normed: bool
    """Whether its residual stream begins with what was normed."""


class Together:
    """Copies blocks in several pools."""

    def __init__(self, *pools: BlockCopier) -> None:
        self._pools = pools

    def copy(self, source: int, target: int) -> None:
        """Copy a block, in all of them."""
        for pool in self._pools:
            pool.copy(source, target)
