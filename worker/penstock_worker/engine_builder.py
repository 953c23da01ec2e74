"""Builds an engine from its settings: model, KV pool, and a warm-up that proves it works."""

import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock_contract.step_cost import StepCost
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.computing import computation, device_name
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.gpu_memory import DeviceMemory, kv_room
from penstock_worker.grammar import Grammars
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.messages import AddRequest, FinishReason, Ready, Sampling
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.model.loading import Computation, load_model
from penstock_worker.runner import ModelRunner
from penstock_worker.runner_interface import Runner
from penstock_worker.self_benchmark import measure
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.speculative.proposer import Proposer
from penstock_worker.transfer.fingerprint import fingerprint
from penstock_worker.transfer.pool_memory import block_memory
from penstock_worker.window import Window

if TYPE_CHECKING:
    from penstock_worker.transfer.handoff import Handoff

DEFAULT_KV_BYTES = 1 << 30
BENCHMARK_SECONDS = 0.4


def build_engine(config: EngineConfig, tokens: WorkerTokens | None = None) -> tuple[Engine, Ready]:
    """Load the model, allocate the pool, and generate a token to warm everything up.

    Args:
        config: its settings.
        tokens: by which workers that hand KV over know each other.

    Raises:
        UnsupportedModel: the checkpoint is damaged or not one that this engine computes.
        UnsupportedAdapter: the same of an adapter.
        ValueError: a setting makes no sense; the message names it.
    """
    began = time.monotonic()
    folder = Path(config.model)
    shape = read_config(folder)
    how = computation(config, shape)
    max_model_len = min(config.max_model_len or shape.max_position, shape.max_position)
    block_bytes = shape.kv_bytes_per_token * config.block_size * how.dtype.itemsize // 4
    num_blocks = _num_blocks(config, shape, how, max_model_len, block_bytes)
    pool = KVPool(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        num_blocks=num_blocks,
        block_size=config.block_size,
        dtype=how.dtype,
        device=how.device,
        latent_rank=shape.latent_rank,
    )
    adapters = [load_adapter(name, Path(at), shape) for name, at in config.adapters.items()]
    runner = ModelRunner(load_model(folder, shape, pool, max_model_len, how, adapters), pool)
    # The warm-up has an engine of its own, so that the counters start at nothing.
    warm = _engine(config, runner, shape, num_blocks, max_model_len)
    lengths = _largest_step(config, max_model_len) if how.triton else [2]
    _warm_up(warm, lengths, shape.vocab_size)
    cost = None
    if config.self_benchmark:
        cost = measure(
            warm, vocab_size=shape.vocab_size, clock=time.monotonic, budget=BENCHMARK_SECONDS
        )
    epoch = secrets.token_hex(8)
    engine = _engine(config, runner, shape, num_blocks, max_model_len, cost)
    engine.handoff = _handoff(config, shape, engine.pool, pool, epoch, tokens)
    if config.tier is not None:
        from penstock_worker.tiers.opening import open_tier

        identity = _fingerprint(config, shape, pool)
        engine.use(open_tier(config.tier, engine.pool, pool, identity, shape.window, cost))
    return engine, Ready(
        epoch=epoch,
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=config.prefix_caching,
        step_cost=asdict(cost) if cost else None,
        device=device_name(how.device),
        kv_bytes_per_token=block_bytes // config.block_size,
    )


def _engine(
    config: EngineConfig,
    runner: Runner,
    shape: ModelConfig,
    num_blocks: int,
    max_model_len: int,
    cost: StepCost | None = None,
) -> Engine:
    return Engine(
        runner,
        BlockPool(
            num_blocks,
            config.block_size,
            caching=config.prefix_caching,
            log=CacheLog(config.block_size, config.adapters) if config.kv_events else None,
        ),
        vocab_size=shape.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        grammars=Grammars(Path(config.model), shape.vocab_size, shape.eos_token_ids),
        proposer=_proposer(config),
        adapters=config.adapters,
        window=shape.window,
        cost=cost,
    )


def _proposer(config: EngineConfig) -> Proposer | None:
    match config.speculative:
        case "none":
            return None
        case "ngram":
            return NgramProposer(config.speculative_tokens)
    raise ValueError(f"speculative {config.speculative!r} is not one of none, ngram")


def _handoff(
    config: EngineConfig,
    shape: ModelConfig,
    blocks: BlockPool,
    pool: KVPool,
    epoch: str,
    tokens: WorkerTokens | None,
) -> "Handoff | None":
    if config.transfer is None:
        return None
    # It brings pydantic, which takes a tenth of a second that most engines need not spend.
    from penstock_worker.transfer.opening import open_handoff

    identity = _fingerprint(config, shape, pool)
    memory = block_memory(pool)
    return open_handoff(
        config.transfer, blocks, memory, epoch=epoch, fingerprint=identity, tokens=tokens
    )


def _fingerprint(config: EngineConfig, shape: ModelConfig, pool: KVPool) -> bytes:
    return fingerprint(
        shape,
        weight_files(Path(config.model)),
        block_size=config.block_size,
        dtype=str(pool.dtype),
        quantization=config.quantization,
        adapters={name: Path(at) for name, at in config.adapters.items()},
    )


def _num_blocks(
    config: EngineConfig,
    shape: ModelConfig,
    how: Computation,
    max_model_len: int,
    block_bytes: int,
) -> int:
    """Return the size of the pool; it must hold at least one context, as far as that is kept."""
    context = -(-max_model_len // config.block_size)
    needed = context
    if config.transfer is None:  # else a prompt is kept whole, for another worker
        window = Window(shape.window, config.block_size)
        needed = window.most_blocks(max_model_len, config.max_num_batched_tokens)
    if config.kv_cache_bytes is not None:
        blocks = config.kv_cache_bytes // block_bytes
    elif how.device.type == "cuda":
        blocks = _gpu_room(config, shape, how) // block_bytes
    else:
        room = min(DEFAULT_KV_BYTES, _available_memory() // 4)
        blocks = min(room // block_bytes, config.max_num_seqs * context)
    if blocks < needed:
        raise ValueError(
            f"the KV cache holds {blocks * config.block_size} tokens, fewer than the "
            f"{needed * config.block_size} of a context with max_model_len {max_model_len}: raise "
            "--kv-cache-memory or lower --max-model-len"
        )
    return blocks


def _gpu_room(config: EngineConfig, shape: ModelConfig, how: Computation) -> int:
    """Return the bytes that a GPU has left for KV; all of them serve, as a larger prefix cache."""
    free, total = torch.cuda.mem_get_info(how.device)
    return kv_room(
        DeviceMemory(total, free),
        config.gpu_memory_utilization,
        shape,
        how.dtype.itemsize,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
    )


def _available_memory() -> int:
    """Return the bytes that can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return DEFAULT_KV_BYTES


def _largest_step(config: EngineConfig, max_model_len: int) -> list[int]:
    """Return the lengths of prompts that fill a step: memory that lacks must lack at start."""
    longest = max(1, max_model_len - 2)
    count = min(config.max_num_seqs, -(-config.max_num_batched_tokens // longest))
    return [min(longest, config.max_num_batched_tokens)] * count


def _warm_up(engine: Engine, lengths: list[int], vocab_size: int) -> None:
    """Generate two tokens (prefill, then decode), so that the first request pays nothing extra."""
    greedy = Sampling(temperature=0.0)
    for index, length in enumerate(lengths):
        # No prompt begins like another one, or the cache would save its computation.
        prompt = [index % vocab_size, *[0] * (length - 1)]
        engine.add(AddRequest(f"warm-up-{index}", prompt, max_tokens=2, sampling=greedy))
    while engine.busy:
        batch = engine.step()
        if any(output.finish_reason is FinishReason.ABORT for output in batch.outputs):
            raise RuntimeError(batch.outputs[0].error)
