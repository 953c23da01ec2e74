"""Chooses what computes a checkpoint, and loads it: the native kernels, or PyTorch."""

from dataclasses import dataclass
from pathlib import Path

import torch

from penstock_worker.attention.pool import KVPool
from penstock_worker.attention.reference import ReferenceAttention
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.interface import Model
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.weights import Weights
from penstock_worker.native.decoder import NativeDecoder

QUANTIZATIONS = ("none", "int8", "int4")


@dataclass(frozen=True)
class Computation:
    """How a model is computed.

    Args:
        dtype: float32 or bfloat16: of the KV, and of the weights where they are not quantised.
        quantization: of the weights, one of QUANTIZATIONS.
        kernels: the native library; None for PyTorch.
        threads: that compute.
    """

    dtype: torch.dtype = torch.float32
    quantization: str = "none"
    kernels: Path | None = None
    threads: int = 1


def load_model(
    folder: Path, config: ModelConfig, pool: KVPool, max_model_len: int, how: Computation
) -> Model:
    """Return the model of the checkpoint in `folder`, over a pool for its KV.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
    """
    with Checkpoint(folder, how.dtype) as checkpoint:
        weights = Weights(config, checkpoint)
        if how.kernels is None:
            attention = ReferenceAttention(pool, config.windows, config.query_scale)
            return TorchDecoder(config, weights, attention, max_model_len, how.quantization)
        return NativeDecoder(
            how.kernels,
            config,
            weights,
            pool,
            max_model_len,
            quantization=how.quantization,
            threads=how.threads,
        )
