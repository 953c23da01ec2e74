"""Chooses what computes a checkpoint, and loads it: the native kernels, PyTorch, or a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from penstock_worker.attention.features import Tap
from penstock_worker.attention.interface import AttentionBackend
from penstock_worker.attention.latent import LatentAttention
from penstock_worker.attention.pool import CPU, KVPool
from penstock_worker.attention.reference import ReferenceAttention
from penstock_worker.lora.adapter import Adapter
from penstock_worker.lora.config import UnsupportedAdapter
from penstock_worker.model.collectives import ALONE, Collectives
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.interface import Model
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.weights import Weights
from penstock_worker.native.decoder import NativeDecoder
from penstock_worker.sparsity import DENSE, Sparsity

QUANTIZATIONS = ("none", "int8", "int4")


@dataclass(frozen=True)
class ExecutionConfig:
    """How a model is computed.

    Args:
        dtype: float32 or bfloat16: that is computed in, and of weights that are not quantised.
        quantization: of the weights, one of QUANTIZATIONS.
        kernels: the native library; None for PyTorch.
        threads: that compute.
        triton: attention is Triton's and steps are staged, as on a GPU; no native library then.
        device: holds weights and KV. Triton's kernels run on a CPU in its interpreter only.
        max_num_seqs: that decode at once; on a GPU such steps are recorded.
        kept_as: type of the KV (`attention.stored`); None: the same as `dtype`.
        sparsity: what answers read; less than everything with the native library only, over a pool
            that keeps bounds of its layers.
    """

    dtype: torch.dtype = torch.float32
    quantization: str = "none"
    kernels: Path | None = None
    threads: int = 1
    triton: bool = False
    device: torch.device = CPU
    max_num_seqs: int = 1
    kept_as: torch.dtype | None = None
    sparsity: Sparsity = DENSE

    @property
    def kv_dtype(self) -> torch.dtype:
        """What KV is stored in."""
        return self.kept_as or self.dtype

    @property
    def kv_kind(self) -> str:
        """What KV means, beside the weights that it comes of: equal where it is interchangeable."""
        computed = "" if self.kv_dtype is self.dtype else f" of {self.dtype}"
        return f"{self.kv_dtype}{computed}"


def load_model(
    folder: Path,
    config: ModelConfig,
    pool: KVPool,
    max_model_len: int,
    how: ExecutionConfig,
    adapters: Sequence[Adapter] = (),
    tap: Tap | None = None,
) -> Model:
    """Return the model of the checkpoint in `folder`, over a pool for its KV.

    On a CPU it leaves features at the tap, if there is one.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
        UnsupportedAdapter: there are adapters, and what is to compute them cannot.
    """
    with Checkpoint(folder, how.dtype, how.device) as checkpoint:
        weights = Weights(config, checkpoint)
        if how.kernels is None:
            return torch_model(config, weights, pool, max_model_len, how, adapters, tap=tap)
        return NativeDecoder(
            how.kernels,
            config,
            weights,
            pool,
            max_model_len,
            dtype=how.dtype,
            quantization=how.quantization,
            threads=how.threads,
            adapters=adapters,
            features=tap,
            sparse_blocks=how.sparsity.blocks,
        )


def torch_model(
    config: ModelConfig,
    weights: Weights,
    pool: KVPool,
    max_model_len: int,
    how: ExecutionConfig,
    adapters: Sequence[Adapter] = (),
    collectives: Collectives = ALONE,
    tap: Tap | None = None,
) -> Model:
    """Return a model that PyTorch computes, on a CPU or a GPU; or a rank's part of one.

    Raises:
        UnsupportedModel: the checkpoint contradicts its configuration.
        UnsupportedAdapter: there are adapters, and what is to compute them cannot.
    """
    if how.triton:
        if adapters:
            raise UnsupportedAdapter("adapters are computed on CPUs only: use --device cpu")
        return _gpu_decoder(config, weights, pool, max_model_len, how, collectives)
    attention = _attention(config, weights, pool)
    return TorchDecoder(
        config, weights, attention, max_model_len, how.quantization, adapters, collectives, tap
    )


def _attention(config: ModelConfig, weights: Weights, pool: KVPool) -> AttentionBackend:
    if config.latent:
        expansions = [weights.expansion(layer, config.latent) for layer in range(config.num_layers)]
        return LatentAttention(pool, expansions, config.query_scale)
    return ReferenceAttention(pool, config.windows, config.query_scale, config.score_cap)


def _gpu_decoder(
    config: ModelConfig,
    weights: Weights,
    pool: KVPool,
    max_model_len: int,
    how: ExecutionConfig,
    collectives: Collectives,
) -> Model:
    # Triton is there where PyTorch is built for GPUs; nobody else needs it.
    from penstock_worker.attention.gpu.backend import TritonAttention
    from penstock_worker.model.gpu.decoder import GpuDecoder
    from penstock_worker.model.gpu.graphs import CudaGraphs, unrecorded
    from penstock_worker.model.gpu.ladder import ladder

    attention = TritonAttention(
        pool,
        config.windows,
        config.query_scale,
        heads=config.num_heads,
        max_model_len=max_model_len,
        cap=config.score_cap,
    )
    return GpuDecoder(
        TorchDecoder(config, weights, attention, max_model_len, collectives=collectives),
        attention,
        max_model_len=max_model_len,
        sizes=ladder(how.max_num_seqs),
        record=CudaGraphs().record if how.device.type == "cuda" else unrecorded,
    )
