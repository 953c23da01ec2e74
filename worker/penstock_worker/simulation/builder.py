"""Builds a simulated engine: the real engine around a runner that computes nothing."""

import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig, SimulationConfig
from penstock_worker.lora.config import adapter_digest, read_adapter_config
from penstock_worker.lora.shelf import Shelf, Version
from penstock_worker.messages import Ready
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.simulation.memory import SimulatedMemory
from penstock_worker.simulation.runner import SimulatedAdapters, SimulatedRunner
from penstock_worker.transfer.fingerprint import fingerprint

if TYPE_CHECKING:
    from penstock_worker.transfer.handoff import Handoff


def build_engine(config: EngineConfig, tokens: WorkerTokens | None = None) -> tuple[Engine, Ready]:
    """Return an engine that takes as long as `config.simulation` says.

    Args:
        config: its settings.
        tokens: by which workers that hand KV over know each other.

    Raises:
        UnsupportedModel: the folder has no configuration of a model.
        ValueError: the KV cache cannot hold one context.
    """
    began = time.monotonic()
    if config.tier is not None:
        raise ValueError("--kv-tier-disk: --runner sim computes no KV that could be kept")
    simulation = config.simulation or SimulationConfig()
    shape = read_config(Path(config.model))
    max_model_len = config.max_model_len or shape.max_position
    num_blocks = simulation.kv_tokens // config.block_size
    if num_blocks * config.block_size < max_model_len:
        raise ValueError(
            f"the KV cache holds {num_blocks * config.block_size} tokens, fewer than max_model_len "
            f"{max_model_len}: raise --sim-kv-tokens or lower --max-model-len"
        )
    engine = Engine(
        SimulatedRunner(simulation.cost, shape.vocab_size, time.sleep),
        BlockPool.of(config, num_blocks),
        vocab_size=shape.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        adapters=_shelf(config),
        window=shape.window,
        cost=simulation.cost,
    )
    epoch = secrets.token_hex(8)
    engine.handoff = _handoff(config, simulation, shape, engine.pool, epoch, tokens)
    return engine, Ready(
        epoch=epoch,
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=config.prefix_caching,
        step_cost=asdict(simulation.cost) if config.self_benchmark else None,
        kv_bytes_per_token=shape.kv_bytes_per_token // 2,  # as bfloat16
    )


def _shelf(config: EngineConfig) -> Shelf:
    """Return adapters that are read, as far as they can be, and change nothing."""

    def read(_: str, folder: Path) -> tuple[None, bytes]:
        read_adapter_config(folder)
        return None, adapter_digest(folder)

    versions = [
        Version(name, name, adapter_digest(Path(at))) for name, at in config.adapters.items()
    ]
    return Shelf(versions, SimulatedAdapters(), read, config.max_adapters)


def _handoff(
    config: EngineConfig,
    simulation: SimulationConfig,
    shape: ModelConfig,
    blocks: BlockPool,
    epoch: str,
    tokens: WorkerTokens | None,
) -> "Handoff | None":
    if config.transfer is None:
        return None
    from penstock_worker.transfer.opening import open_handoff

    identity = fingerprint(
        shape, (), block_size=config.block_size, dtype=shape.dtype, quantization="simulated"
    )
    block_bytes = shape.kv_bytes_per_token * config.block_size / 2  # as bfloat16
    memory = SimulatedMemory(block_bytes / simulation.kv_bandwidth, time.sleep)
    return open_handoff(
        config.transfer, blocks, memory, epoch=epoch, fingerprint=identity, tokens=tokens
    )
