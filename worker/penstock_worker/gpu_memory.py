"""How much of a GPU's memory is left for KV, beside weights and what a step needs. Pure.

Counted from the model's shape, before anything is loaded; the warm-up then runs the largest step,
so a count that was too low shows at start and not under load.
"""

from dataclasses import dataclass

from penstock_worker.attention.gpu.tiles import MOST_SPLITS
from penstock_worker.model.config import ModelConfig
from penstock_worker.step import SCORED_TOKENS

OVERHEAD = 768 << 20
"""CUDA graphs, libraries' workspaces, and what the allocator cannot use, in bytes."""
COLLECTIVES = 512 << 20
"""Buffers of NCCL, where there are several ranks, in bytes."""
SAMPLING = 48
"""Bytes for each logit that is sampled from: float32, sorted with indices, float64 sums."""


@dataclass(frozen=True)
class DeviceMemory:
    """Of a GPU, in bytes."""

    total: int
    free: int


def kv_room(
    memory: DeviceMemory,
    utilization: float,
    shape: ModelConfig,
    itemsize: int,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    ranks: int = 1,
) -> int:
    """Return the bytes for KV, in `utilization` of the whole memory less what others have taken.

    `shape` is that of a rank's part. What one rank has room for they all need: so each counts the
    logits of the first, which are whole.

    Raises:
        ValueError: nothing is left; the message says what takes how much.
    """
    others = memory.total - memory.free
    weights = parameters(shape) * itemsize
    step = step_bytes(shape, itemsize, max_num_batched_tokens, max_num_seqs, ranks)
    step += COLLECTIVES if ranks > 1 else 0
    room = int(memory.total * utilization) - others - weights - step - OVERHEAD
    if room <= 0:
        raise ValueError(
            f"no GPU memory is left for KV: of {_gib(memory.total)}, --gpu-memory-utilization "
            f"allows {utilization:.0%}; {_gib(others)} are taken by others, {_gib(weights)} by the "
            f"weights, {_gib(step + OVERHEAD)} by a step. Lower --max-num-batched-tokens or "
            "--max-num-seqs, or take a larger GPU, or more of them (--tensor-parallel-size)"
        )
    return room


def parameters(shape: ModelConfig) -> int:
    """Return how many numbers the matrices of a model hold; norms and biases count for nothing."""
    heads = 2 * shape.num_heads + 2 * shape.num_kv_heads
    layer = shape.hidden_size * (heads * shape.head_dim + 3 * shape.intermediate_size)
    tables = 1 if shape.tie_word_embeddings else 2
    return shape.num_layers * layer + tables * shape.vocab_size * shape.hidden_size


def step_bytes(shape: ModelConfig, itemsize: int, tokens: int, rows: int, ranks: int = 1) -> int:
    """Return what the largest step takes: activations of a layer, splits of attention, logits."""
    attention = 3 * (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    mlp = 4 * shape.intermediate_size
    activations = tokens * itemsize * (3 * shape.hidden_size + max(attention, mlp))
    splits = 4 * rows * shape.num_heads * MOST_SPLITS * (shape.head_dim + 2)
    logits = ranks * shape.vocab_size * SAMPLING * max(rows, SCORED_TOKENS)
    return activations + splits + logits


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
