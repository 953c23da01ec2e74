"""How many blocks of KV a worker keeps: what it is told, or what its machine has room for."""

from pathlib import Path
from typing import NamedTuple

import torch

from penstock_worker.attention.pool import token_bytes
from penstock_worker.engine_config import EngineConfig
from penstock_worker.gpu_memory import DeviceMemory, kv_room
from penstock_worker.host_memory import available_memory
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.files import weight_files
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.sparsity import bounds_bytes
from penstock_worker.window import Window

DEFAULT_KV_BYTES = 1 << 30
SHARE = 0.5
"""Of the memory that weights leave; the rest is for steps, the server and what comes."""

QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5625}
"""Of a weight, scales included."""


class Beside(NamedTuple):
    """What a draft model takes, in bytes."""

    block: int = 0
    """Of KV, beside each block of the target's."""
    weights: int = 0


ALONE = Beside()


def kv_blocks(
    config: EngineConfig,
    shape: ModelConfig,
    how: ExecutionConfig,
    max_model_len: int,
    beside: Beside = ALONE,
) -> int:
    """Return the size of the pool of a model, or of a rank's part of one.

    Args:
        config: the engine's.
        shape: of the model or the part.
        how: it is computed.
        max_model_len: tokens of the longest context.
        beside: what a draft model takes.

    Raises:
        ValueError: it cannot hold a context, as far as that is kept.
    """
    block_bytes = token_bytes(shape, how.kv_dtype) * config.block_size + beside.block
    block_bytes += bounds_bytes(shape, how.sparsity, how.kv_dtype)
    context = -(-max_model_len // config.block_size)
    needed = context
    if config.transfer is None:  # else a prompt is kept whole, for another worker
        window = Window(shape.window, config.block_size)
        needed = window.most_blocks(max_model_len, config.max_num_batched_tokens)
    why = ""
    if config.kv_cache_bytes is not None:
        blocks = config.kv_cache_bytes // block_bytes
    elif how.device.type == "cuda":
        blocks = _gpu_room(config, shape, how) // block_bytes
    else:
        left = _left(config, shape, how, beside)
        ranks = config.local_ranks
        room = host_room(left, needed * block_bytes * ranks) // ranks
        blocks = min(room // block_bytes, config.max_num_seqs * context)
        if left is not None:
            why = f" (weights leave {max(0, left) >> 20} MiB of memory)"
    if blocks < needed:
        raise ValueError(
            f"the KV cache holds {blocks * config.block_size} tokens, fewer than the "
            f"{needed * config.block_size} of a context with max_model_len {max_model_len}{why}: "
            "raise --kv-cache-memory or lower --max-model-len"
        )
    return blocks


def _gpu_room(config: EngineConfig, shape: ModelConfig, how: ExecutionConfig) -> int:
    """Return the bytes that a GPU has left for KV; all of them serve, as a larger prefix cache."""
    free, total = torch.cuda.mem_get_info(how.device)
    return kv_room(
        DeviceMemory(total, free),
        config.gpu_memory_utilization,
        shape,
        how.dtype.itemsize,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        ranks=config.tensor_parallel_size,
    )


def host_room(left: int | None, least: int) -> int:
    """Return the bytes for the KV of all ranks on a CPU.

    Args:
        left: bytes that weights leave; None: nobody knows.
        least: bytes of one context, which may take more than its share: most is never written.
            Beyond the default it takes no more than that.
    """
    if left is None:
        return DEFAULT_KV_BYTES
    share = max(0, int(left * SHARE))
    return max(min(DEFAULT_KV_BYTES, max(share, min(left, least))), min(share, least))


def _left(
    config: EngineConfig, shape: ModelConfig, how: ExecutionConfig, beside: Beside
) -> int | None:
    """Return the bytes of this node's memory that weights will leave; None where nothing tells."""
    available = available_memory()
    if available is None:
        return None
    weights = weight_bytes(Path(config.model), shape, how) // config.group.nodes
    return available - weights - beside.weights


def weight_bytes(folder: Path, shape: ModelConfig, how: ExecutionConfig) -> int:
    """Return what weights will take, by the files that they are read from."""
    files = sum(path.stat().st_size for path in weight_files(folder))
    stored = 4 if shape.dtype == "float32" else 2
    return int(files * QUANTIZED_BYTES.get(how.quantization, how.dtype.itemsize) / stored)
