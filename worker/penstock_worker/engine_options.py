"""What the engine is told of the flags of `penstock-worker`."""

import argparse
import socket
from pathlib import Path

from penstock_contract import group
from penstock_worker.engine_config import (
    EngineConfig,
    GroupConfig,
    KVEventsConfig,
    SimulationConfig,
    TierConfig,
    TransferConfig,
)

EVERYWHERE = ("0.0.0.0", "::")


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """Return what the engine is to know of the options."""
    return EngineConfig(
        model=str(Path(options.model).resolve()),
        task=options.task,
        dtype=options.dtype,
        quantization=options.quantization,
        kv_cache_dtype=options.kv_cache_dtype,
        sparse_attention_tokens=options.sparse_attention_tokens,
        device=options.device,
        kernels=options.kernels,
        max_model_len=options.max_model_len,
        block_size=options.block_size,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        prefix_caching=options.enable_prefix_caching,
        adapters={name: str(folder.resolve()) for name, folder in options.adapter},
        max_adapters=options.max_adapters,
        max_adapter_rank=options.max_adapter_rank,
        kv_cache_bytes=options.kv_cache_memory,
        gpu_memory_utilization=options.gpu_memory_utilization,
        speculative=options.speculative,
        speculative_tokens=options.speculative_tokens,
        speculative_model=str(options.speculative_model.resolve())
        if options.speculative_model
        else "",
        speculative_quantization=options.speculative_quantization,
        threads=options.threads,
        tensor_parallel_size=options.tensor_parallel_size,
        group=_group(options),
        kv_events=_kv_events(options),
        transfer=_transfer(options),
        tier=_tier(options),
        self_benchmark=options.self_benchmark,
        simulation=_simulation(options),
    )


def _simulation(options: argparse.Namespace) -> SimulationConfig | None:
    if options.runner != "sim":
        return None
    return SimulationConfig(options.sim_cost, options.sim_kv_tokens, options.sim_kv_bandwidth)


def _group(options: argparse.Namespace) -> GroupConfig:
    """Return where this worker stands among the nodes.

    Raises:
        ValueError: the flags contradict each other; the message names them.
    """
    count, node, ranks = options.nodes, options.node_rank, options.tensor_parallel_size
    if not 0 <= node < count:
        raise ValueError(f"{group.NODE_RANK} {node}: {group.NODES} {count} has 0 to {count - 1}")
    if count == 1:
        return GroupConfig()
    if ranks % count:
        raise ValueError(
            f"{group.NODES} {count}: give --tensor-parallel-size, of all nodes together, which is "
            f"{ranks}, as a multiple of it"
        )
    if options.group_address is None:
        raise ValueError(f"{group.NODES} {count}: say where node 0 waits ({group.GROUP_ADDRESS})")
    if options.group_address[0] in EVERYWHERE:
        raise ValueError(f"{group.GROUP_ADDRESS}: give the address by which others reach node 0")
    return GroupConfig(count, node, *options.group_address)


def _kv_events(options: argparse.Namespace) -> KVEventsConfig | None:
    if options.kv_events is None:
        return None
    return KVEventsConfig(
        endpoint=options.kv_events,
        replay_endpoint=options.kv_events_replay or "",
        encoding=options.kv_events_encoding,
        worker=options.worker_id,
        model=(options.served_model_name or [Path(options.model).resolve().name])[0],
    )


def _transfer(options: argparse.Namespace) -> TransferConfig | None:
    if options.kv_transfer is None:
        return None
    host, port = options.kv_transfer
    return TransferConfig(
        host=host,
        port=port,
        advertised_host=options.kv_transfer_advertise or _reachable(host),
        lease_seconds=options.kv_transfer_lease,
        worker=options.worker_id,
    )


def _tier(options: argparse.Namespace) -> TierConfig | None:
    if options.kv_tier_disk is None:
        return None
    return TierConfig(str(options.kv_tier_disk.resolve()), options.kv_tier_disk_capacity)


def _reachable(host: str) -> str:
    """Return the address to tell others: a pod's own where it listens on all."""
    if host not in EVERYWHERE:
        return host
    return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
