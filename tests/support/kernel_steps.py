"""The same steps by different kernels, and how far apart their logits are."""

from pathlib import Path
from typing import Any

import torch
from engines import load
from kernels import native_library

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig

KV = {"kv in bfloat16": torch.bfloat16, "kv in int8": torch.int8}


def steps(block_size: int = 16, length: int = 100) -> list[Batch]:
    """Return a prefill in two chunks, then a step with decoding and prefill side by side."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, 320, (2 * length + 1,), generator=generator).tolist()
    blocks = list(range(60))[::-1][: -(-(length + 1) // block_size) + 1]
    other = list(range(60, 120))[: -(-length // block_size)]
    cut = length // 3

    def rows(first: int, count: int) -> list[int]:
        return list(range(first, first + count))

    return [
        Batch(tokens[:cut], rows(0, cut), [Sequence(0, cut, 0, blocks)], [cut - 1]),
        Batch(
            tokens[cut:length],
            rows(cut, length - cut),
            [Sequence(0, length - cut, cut, blocks)],
            rows(0, length - cut),
        ),
        Batch(
            tokens[length:],
            [length, *rows(0, length)],
            [Sequence(0, 1, length, blocks), Sequence(1, length, 0, other)],
            rows(0, length + 1),
        ),
    ]


def kept_as(stored: str) -> dict[str, Any]:
    """Return the options of an execution whose weights, or whose KV, are kept so."""
    if stored in KV:
        return {"kept_as": KV[stored]}
    return {"dtype": torch.bfloat16} if stored == "bfloat16" else {"quantization": stored}


def logits(folder: Path, how: ExecutionConfig, length: int = 100, **options: Any) -> torch.Tensor:
    """Return the logits of all steps."""
    model = load(folder, how, num_blocks=120, **options)
    batches = steps(options.get("block_size", 16), length)
    return torch.cat([model.logits(batch) for batch in batches])


def difference(folder: Path, how: ExecutionConfig, exact: ExecutionConfig, **options: int) -> float:
    """Return the largest difference of the logits."""
    return float((logits(folder, how, **options) - logits(folder, exact, **options)).abs().max())


def relative(folder: Path, how: ExecutionConfig, exact: ExecutionConfig) -> float:
    """Return the norm of the difference by the norm of the logits.

    What rounds inputs cannot agree to the last bit: one that lies between two steps, but for the
    order of a sum, may go either way.
    """
    theirs = logits(folder, exact)
    return float((logits(folder, how) - theirs).norm() / theirs.norm())


def native(**options: Any) -> ExecutionConfig:
    return ExecutionConfig(kernels=native_library(), **options)


def last_logits(folder: Path, how: ExecutionConfig, size: int, beside: int) -> torch.Tensor:
    """Return the logits of a prompt's last token.

    Args:
        folder: the checkpoint.
        how: it is computed.
        size: of the chunks that the prompt is computed in.
        beside: other sequences in each step.
    """
    tokens = torch.randint(0, 320, (101,), generator=torch.Generator().manual_seed(9)).tolist()
    model = load(folder, how, num_blocks=120)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        positions = list(range(start, start + len(part)))
        sequences = [Sequence(0, len(part), start, list(range(7)))]
        others = [Sequence(len(part) + i, 1, 0, [20 + i]) for i in range(beside)]
        batch = Batch(
            part + [5] * beside, positions + [0] * beside, sequences + others, [len(part) - 1]
        )
        found = model.logits(batch)[0]
    return found
