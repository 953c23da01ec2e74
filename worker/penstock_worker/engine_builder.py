"""Builds an engine from its settings: model, KV pool, and a warm-up that proves it works."""

import os
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.grammar import Grammars
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.messages import AddRequest, FinishReason, Ready, Sampling
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.model.loading import QUANTIZATIONS, Computation, load_model
from penstock_worker.native import build
from penstock_worker.runner import ModelRunner
from penstock_worker.runner_interface import Runner
from penstock_worker.self_benchmark import measure
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.speculative.proposer import Proposer
from penstock_worker.transfer.fingerprint import fingerprint
from penstock_worker.transfer.pool_memory import PoolMemory

if TYPE_CHECKING:
    from penstock_worker.transfer.handoff import Handoff

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
KERNELS = ("auto", "native", "torch")

DEFAULT_KV_BYTES = 1 << 30
BENCHMARK_SECONDS = 0.4


def build_engine(config: EngineConfig) -> tuple[Engine, Ready]:
    """Load the model, allocate the pool, and generate a token to warm everything up.

    Raises:
        UnsupportedModel: the checkpoint is damaged or not one that this engine computes.
        ValueError: a setting makes no sense; the message names it.
    """
    began = time.monotonic()
    folder = Path(config.model)
    shape = read_config(folder)
    how = _computation(config, shape)
    max_model_len = min(config.max_model_len or shape.max_position, shape.max_position)
    block_bytes = shape.kv_bytes_per_token * config.block_size * how.dtype.itemsize // 4
    num_blocks = _num_blocks(config, max_model_len, block_bytes)
    pool = KVPool(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        num_blocks=num_blocks,
        block_size=config.block_size,
        dtype=how.dtype,
    )
    runner = ModelRunner(load_model(folder, shape, pool, max_model_len, how), pool)
    # The warm-up has an engine of its own, so that the counters start at nothing.
    warm = _engine(config, runner, shape, num_blocks, max_model_len)
    _warm_up(warm)
    cost = None
    if config.self_benchmark:
        cost = measure(
            warm, vocab_size=shape.vocab_size, clock=time.monotonic, budget=BENCHMARK_SECONDS
        )
    epoch = secrets.token_hex(8)
    engine = _engine(config, runner, shape, num_blocks, max_model_len)
    engine.handoff = _handoff(config, shape, engine.pool, pool, epoch)
    return engine, Ready(
        epoch=epoch,
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=config.prefix_caching,
        step_cost=asdict(cost) if cost else None,
    )


def _engine(
    config: EngineConfig, runner: Runner, shape: ModelConfig, num_blocks: int, max_model_len: int
) -> Engine:
    return Engine(
        runner,
        BlockPool(
            num_blocks,
            config.block_size,
            caching=config.prefix_caching,
            log=CacheLog(config.block_size) if config.kv_events else None,
        ),
        vocab_size=shape.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        grammars=Grammars(Path(config.model), shape.vocab_size, shape.eos_token_ids),
        proposer=_proposer(config),
    )


def _proposer(config: EngineConfig) -> Proposer | None:
    match config.speculative:
        case "none":
            return None
        case "ngram":
            return NgramProposer(config.speculative_tokens)
    raise ValueError(f"speculative {config.speculative!r} is not one of none, ngram")


def _handoff(
    config: EngineConfig, shape: ModelConfig, blocks: BlockPool, pool: KVPool, epoch: str
) -> "Handoff | None":
    if config.transfer is None:
        return None
    # It brings pydantic, which takes a tenth of a second that most engines need not spend.
    from penstock_worker.transfer.opening import open_handoff

    identity = fingerprint(
        shape,
        weight_files(Path(config.model)),
        block_size=config.block_size,
        dtype=str(pool.dtype),
        quantization=config.quantization,
    )
    memory = PoolMemory(pool)
    return open_handoff(config.transfer, blocks, memory, epoch=epoch, fingerprint=identity)


def _computation(config: EngineConfig, shape: ModelConfig) -> Computation:
    """Decide how the model is computed, from the settings, the checkpoint and the machine."""
    for name, value, known in (
        ("dtype", config.dtype, DTYPES),
        ("quantization", config.quantization, QUANTIZATIONS),
        ("kernels", config.kernels, KERNELS),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")
    kernels = None if config.kernels == "torch" else build.find()
    if kernels is None and config.kernels == "native":
        raise ValueError(
            "kernels: the native ones are not compiled: run python -m penstock_worker.native.build"
        )
    if kernels is None and config.kernels == "auto":
        build.build_in_background()
    if config.threads:
        torch.set_num_threads(config.threads)
    dtype = DTYPES[config.dtype]
    if dtype is None:
        # PyTorch computes bfloat16 several times slower than float32 on most CPUs; the native
        # kernels are faster in it on all, as a step is bound by reading the weights.
        stored = shape.dtype == "bfloat16"
        dtype = torch.bfloat16 if kernels is not None and stored else torch.float32
    return Computation(dtype, config.quantization, kernels, config.threads or _threads())


def _threads() -> int:
    """Return torch's choice, which OMP_NUM_THREADS sets, but no more than this process may use."""
    return min(torch.get_num_threads(), len(os.sched_getaffinity(0)))


def _num_blocks(config: EngineConfig, max_model_len: int, block_bytes: int) -> int:
    """Return the size of the pool; it must hold at least one full context."""
    context = -(-max_model_len // config.block_size)
    if config.kv_cache_bytes is None:
        room = min(DEFAULT_KV_BYTES, _available_memory() // 4)
        blocks = min(room // block_bytes, config.max_num_seqs * context)
    else:
        blocks = config.kv_cache_bytes // block_bytes
    if blocks < context:
        raise ValueError(
            f"the KV cache holds {blocks * config.block_size} tokens, fewer than max_model_len "
            f"{max_model_len}: raise --kv-cache-memory or lower --max-model-len"
        )
    return blocks


def _available_memory() -> int:
    """Return the bytes that can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return DEFAULT_KV_BYTES


def _warm_up(engine: Engine) -> None:
    """Generate two tokens (prefill, then decode), so that the first request pays nothing extra."""
    greedy = Sampling(temperature=0.0)
    engine.add(AddRequest(id="warm-up", prompt=[0], max_tokens=2, sampling=greedy))
    while engine.busy:
        batch = engine.step()
        if any(output.finish_reason is FinishReason.ABORT for output in batch.outputs):
            raise RuntimeError(batch.outputs[0].error)
