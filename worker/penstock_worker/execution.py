"""Decides how a model is computed, from the settings, the checkpoint and the machine."""

import os
from pathlib import Path

import torch

from penstock_worker.attention.stored import KV_CACHE_DTYPES
from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.loading import QUANTIZATIONS, ExecutionConfig
from penstock_worker.native import build
from penstock_worker.sparsity import FLAG, read_sparsity

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
KERNELS = ("auto", "native", "torch", "triton")
DEVICES = ("auto", "cpu", "cuda")

OLDEST_GPU = (8, 0)
"""Compute capability from which on tensor cores know bfloat16."""


def execution_config(config: EngineConfig, shape: ModelConfig) -> ExecutionConfig:
    """Return how the model is computed.

    Raises:
        ValueError: a setting makes no sense here; the message names it.
    """
    for name, value, known in (
        ("dtype", config.dtype, DTYPES),
        ("quantization", config.quantization, QUANTIZATIONS),
        ("kv_cache_dtype", config.kv_cache_dtype, KV_CACHE_DTYPES),
        ("kernels", config.kernels, KERNELS),
        ("device", config.device, DEVICES),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
    device = device_of(config.device)
    if device.type == "cuda" or config.kernels == "triton":
        return _on_gpu(config, shape, device)
    return _on_cpu(config, shape)


def device_of(asked: str) -> torch.device:
    """Return where to compute.

    Raises:
        ValueError: a GPU was asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if asked == "cpu" or (asked == "auto" and not there):
        return torch.device("cpu")
    if not there:
        raise ValueError(
            f"device cuda: PyTorch {torch.__version__} finds no GPU; it must be a CUDA build, and "
            "driver and device must be in the container (nvidia.com/gpu in its limits)"
        )
    return torch.device("cuda", torch.cuda.current_device())


def device_name(device: torch.device) -> str:
    """Return cpu, or what a GPU is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _on_gpu(config: EngineConfig, shape: ModelConfig, device: torch.device) -> ExecutionConfig:
    if config.sparse_attention_tokens:
        raise ValueError(f"{FLAG} is for CPUs: leave it out on a GPU, or use --device cpu")
    if config.kernels not in ("auto", "triton"):
        raise ValueError(f"kernels {config.kernels!r} compute on a CPU: use auto, or device cpu")
    if config.quantization != "none":
        raise ValueError(f"quantization {config.quantization!r} is for CPUs: use none on a GPU")
    if config.kv_cache_dtype != "auto":
        raise ValueError(
            f"kv_cache_dtype {config.kv_cache_dtype!r} is for CPUs: use auto on a GPU, or vLLM"
        )
    if shape.latent:
        raise ValueError(
            "device: latent attention (DeepSeek) is computed on CPUs only: use device cpu, or vLLM "
            "for GPUs"
        )
    if shape.experts is not None:
        raise ValueError("mixtures of experts are computed on CPUs only: use device cpu")
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "kernels triton: they compute on a GPU, and on a CPU in Triton's interpreter only, for "
            "tests (TRITON_INTERPRET=1)"
        )
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < OLDEST_GPU:
            name = torch.cuda.get_device_name(device)
            raise ValueError(f"device cuda: {name} is older than compute capability 8.0 (Ampere)")
    return ExecutionConfig(
        DTYPES[config.dtype] or stored_type(shape.dtype),
        triton=True,
        device=device,
        max_num_seqs=config.max_num_seqs,
    )


def _on_cpu(config: EngineConfig, shape: ModelConfig) -> ExecutionConfig:
    kept_as = KV_CACHE_DTYPES[config.kv_cache_dtype]
    if shape.latent and kept_as is torch.int8:
        raise ValueError(
            "kv_cache_dtype 'int8_per_token_head': latents (DeepSeek) have no heads of their own: "
            "use bfloat16 or auto"
        )
    # Ranks meet inside a layer, and the native kernels compute a whole step in one call.
    alone = config.tensor_parallel_size == 1
    kernels = native_library(config.kernels) if alone else None
    sparsity = read_sparsity(config, shape)
    if sparsity.blocks and kernels is None:
        raise ValueError(
            f"{FLAG}: only the native kernels compute it: use --kernels native, and run python -m "
            "penstock_worker.native.build where they are not compiled"
        )
    threads = max(1, (config.threads or usable_threads()) // config.local_ranks)
    if config.threads or not alone:
        torch.set_num_threads(threads)
    dtype = DTYPES[config.dtype]
    if dtype is None:
        # PyTorch computes bfloat16 several times slower than float32 on most CPUs; the native
        # kernels are faster in it on all, as a step is bound by reading the weights.
        dtype = torch.float32 if kernels is None else stored_type(shape.dtype)
    return ExecutionConfig(
        dtype,
        config.quantization,
        kernels,
        threads,
        kept_as=kept_as,
        sparsity=sparsity,
    )


def native_library(kernels: str) -> Path | None:
    """Return the compiled kernels; None for PyTorch's, while they are compiled in the background.

    Raises:
        ValueError: they were asked for by name, and are not there.
    """
    if kernels not in ("auto", "native"):
        return None
    found = build.find()
    if found is None and kernels == "native":
        raise ValueError(
            "kernels: the native ones are not compiled: run python -m penstock_worker.native.build"
        )
    if found is None:
        build.build_in_background()
    return found


def stored_type(name: str) -> torch.dtype:
    """Return a checkpoint's own type, if it is one that is computed in."""
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def usable_threads() -> int:
    """Return torch's choice, which OMP_NUM_THREADS sets, but no more than this process may use."""
    return min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
