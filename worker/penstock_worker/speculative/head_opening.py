"""Opens the EAGLE-3 head that an engine is to guess with, and the tap at its model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from penstock_worker.attention.features import FeaturePool, HeadInputs, Tap
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.kv_size import weight_bytes
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Model
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native.decoder import NativeDecoder
from penstock_worker.speculative.head import Head
from penstock_worker.speculative.head_config import HeadConfig
from penstock_worker.speculative.head_weights import HeadWeights, read_fusion
from penstock_worker.speculative.torch_head import TorchHead


@dataclass(frozen=True)
class HeadDraft:
    """A head that fits its target, not loaded yet."""

    folder: Path
    config: HeadConfig
    how: ExecutionConfig
    target_folder: Path
    target: ModelConfig
    block_size: int

    @property
    def block_bytes(self) -> int:
        """Of its KV and of features, beside a block of the target's KV."""
        shape = self.config.shape
        kv = token_bytes(shape, self.how.dtype)
        return (kv + torch.bfloat16.itemsize * shape.hidden_size) * self.block_size

    @property
    def weight_bytes(self) -> int:
        """Of its weights."""
        return weight_bytes(self.folder, self.config.shape, self.how)

    def tapped(self, num_blocks: int) -> "TappedHead":
        """Return the head with a place for what its target, which is loaded next, leaves for it."""
        pool = FeaturePool(num_blocks, self.block_size, self.config.shape.hidden_size)
        fusion = read_fusion(self.folder, self.config, self.how)
        return TappedHead(self, Tap(pool, self.config.taps, fusion))


@dataclass(frozen=True)
class TappedHead:
    """A head whose target leaves features at a tap."""

    keeps = False
    draft: HeadDraft
    tap: Tap

    @property
    def shape(self) -> ModelConfig:
        """Of the head."""
        return self.draft.config.shape

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of its KV, which is small: never 8 bits."""
        return self.draft.how.dtype

    @property
    def vocab(self) -> int:
        """Tokens that it takes."""
        return self.draft.target.vocab_size

    @property
    def target(self) -> ModelConfig:
        """That it guesses for."""
        return self.draft.target

    @property
    def how(self) -> ExecutionConfig:
        """It is computed."""
        return self.draft.how

    @property
    def block_size(self) -> int:
        """Of all pools."""
        return self.draft.block_size

    def load(self, pool: KVPool, max_model_len: int) -> Model:
        """Return the head, over a pool for its KV.

        Raises:
            UnsupportedModel: the checkpoint contradicts its configuration.
        """
        draft, how = self.draft, self.draft.how
        with (
            Checkpoint(draft.folder, how.dtype, how.device) as checkpoint,
            Checkpoint(draft.target_folder, how.dtype, how.device) as target,
        ):
            weights = HeadWeights(draft.config, checkpoint, draft.target, target)
            inputs = HeadInputs(self.tap.pool, weights.hidden_norm, draft.config.normed)
            model: Model
            if how.kernels is None:
                model = TorchHead(self.shape, weights, pool, inputs, max_model_len, how)
            else:
                model = NativeDecoder(
                    how.kernels,
                    self.shape,
                    weights,
                    pool,
                    max_model_len,
                    dtype=how.dtype,
                    quantization=how.quantization,
                    threads=how.threads,
                    features=inputs,
                )
        return Head(model, weights.says, self.vocab)
