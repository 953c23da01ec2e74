"""Builds a simulated engine: the real engine around a runner that computes nothing."""

import secrets
import time
from dataclasses import asdict
from pathlib import Path

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig, SimulationConfig
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.messages import Ready
from penstock_worker.model.config import read_config
from penstock_worker.simulation.runner import SimulatedRunner


def build_engine(config: EngineConfig) -> tuple[Engine, Ready]:
    """Return an engine that takes as long as `config.simulation` says.

    Raises:
        UnsupportedModel: the folder has no configuration of a model.
        ValueError: the KV cache cannot hold one context.
    """
    began = time.monotonic()
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
    )
    return engine, Ready(
        epoch=secrets.token_hex(8),
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        load_seconds=time.monotonic() - began,
        prefix_caching=config.prefix_caching,
        step_cost=asdict(simulation.cost),
    )
