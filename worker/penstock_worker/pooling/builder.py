"""Builds the engine of a pooling model from its settings, and proves that it works."""

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from penstock_contract.api.engine import Task
from penstock_contract.step_cost import StepCost, StepMoments, fit
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import (
    DTYPES,
    device_name,
    device_of,
    native_library,
    stored_type,
    usable_threads,
)
from penstock_worker.messages import Ready
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.engine import PoolingEngine
from penstock_worker.pooling.inputs import Input
from penstock_worker.pooling.model import PoolingModel, load_decoder, load_encoder
from penstock_worker.pooling.shape import PoolingShape, read_shape
from penstock_worker.sparsity import FLAG

CPU_STEP_TOKENS = 2048
"""Larger steps leave a CPU's caches: they are slower, and others wait longer for them."""

BENCHMARK_SECONDS = 0.4
BATCHES = ((16, 1), (64, 2), (128, 4), (32, 8), (64, 16), (256, 4), (512, 4))
"""(tokens, inputs) of the steps that are measured."""
GROWTH = 4.0
"""A batch is tried when the time left is so many times what the one before took."""


def build_pooling_engine(config: EngineConfig) -> tuple[PoolingEngine, Ready]:
    """Load the model and compute an input, which warms everything up.

    Raises:
        UnsupportedModel: the checkpoint is damaged or not one that is run.
        ValueError: a setting makes no sense; the message names it.
    """
    began = time.monotonic()
    folder = Path(config.model)
    shape = read_shape(folder, Task(config.task))
    model, device = _load(folder, shape, config)
    longest = min(config.max_model_len or shape.max_tokens, shape.max_tokens)
    model.compute([Input([0])])
    budget = config.max_num_batched_tokens
    cost = _measured(model, longest, time.monotonic) if config.self_benchmark else None
    engine = PoolingEngine(
        model,
        vocab_size=shape.vocab_size,
        max_tokens=longest,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=min(budget, CPU_STEP_TOKENS) if device.type == "cpu" else budget,
    )
    return engine, Ready(
        epoch=secrets.token_hex(8),
        num_blocks=0,
        block_size=config.block_size,
        max_model_len=longest,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=False,
        step_cost=asdict(cost) if cost else None,
        device=device_name(device),
    )


def _load(
    folder: Path, shape: PoolingShape, config: EngineConfig
) -> tuple[PoolingModel, torch.device]:
    if config.quantization != "none":
        raise ValueError(
            f"quantization {config.quantization!r}: models that embed or score are computed in "
            "float32 or bfloat16, so use none"
        )
    if config.kv_cache_dtype != "auto":
        raise ValueError(
            f"kv_cache_dtype {config.kv_cache_dtype!r}: models that embed or score keep no KV, so "
            "use auto"
        )
    if config.sparse_attention_tokens:
        raise ValueError(f"{FLAG}: models that embed or score give no answers, so leave it out")
    how = _execution(config, shape)
    network = shape.network
    if isinstance(network, EncoderConfig):
        return load_encoder(folder, network, shape.recipe, how), how.device
    longest = min(config.max_model_len or shape.max_tokens, shape.max_tokens)
    return load_decoder(folder, network, shape.recipe, longest, how), how.device


def _execution(config: EngineConfig, shape: PoolingShape) -> ExecutionConfig:
    """Return how the model is computed; encoders have native kernels, decoders have none here."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config.device)
    on_cpu = device.type == "cpu"
    encodes = on_cpu and isinstance(shape.network, EncoderConfig)
    # Vectors are kept and compared for long: they are exact unless somebody asks for less.
    own = torch.float32 if on_cpu else stored_type(shape.network.dtype)
    return ExecutionConfig(
        DTYPES[config.dtype] or own,
        kernels=native_library(config.kernels) if encodes else None,
        threads=config.threads or usable_threads(),
        device=device,
    )


def _measured(model: PoolingModel, longest: int, clock: Callable[[], float]) -> StepCost:
    """Return what steps cost, measured within `BENCHMARK_SECONDS` and at most a step more."""
    moments, deadline = StepMoments(), clock() + BENCHMARK_SECONDS
    for tokens, inputs in BATCHES:
        length = min(tokens, longest)
        began = clock()
        model.compute([Input([0] * length)] * inputs)
        took = clock() - began
        moments.add(took, length * inputs, 0, 0)
        if clock() + GROWTH * took > deadline:
            break
    return fit(moments.sums)
