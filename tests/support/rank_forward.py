"""One of several ranks that compute many small models together, one after the other, over gloo.

    python rank_forward.py RANK RESULTS RANKS=FOLDER …

Rank 0 writes what it computed to RESULTS, by RANKS=FOLDER.
"""

import os
import sys
from pathlib import Path

import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from penstock_worker.attention.interface import Sequence
from penstock_worker.engine_config import EngineConfig
from penstock_worker.interfaces import LOOPBACK
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.tensor_parallel.group import Group
from penstock_worker.tensor_parallel.part import load_part

TOKENS = [*range(3, 318, 7), 5, 5, 1, 99]
PROMPT = len(TOKENS) - 4
BLOCKS = [2, 0, 3, 1]
Computed = tuple[list[torch.Tensor], list[int]]


def compute(model: Model) -> Computed:
    """Return logits and likeliest tokens: of a prompt's rows, then of one token at a time."""
    batches = [
        Batch(TOKENS[a:b], [*range(a, b)], [Sequence(0, b - a, a, BLOCKS)], [*range(b - a)])
        for a, b in [(0, PROMPT), *((n, n + 1) for n in range(PROMPT, len(TOKENS)))]
    ]
    logits = [model.logits(batch) for batch in batches]
    return logits, [token for batch in batches for token in model.greedy(batch)]


def part_of(folder: Path, rank: int, ranks: int) -> Computed:
    """Compute with this rank's part of a model; what comes is whole on the first one."""
    config = EngineConfig(model=str(folder), tensor_parallel_size=ranks)
    shape, how = read_config(folder), ExecutionConfig()
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    store = FileStore(str(folder / f"store-{ranks}"), ranks)
    # The others may be at models that this rank has no part in.
    group = Group(store, rank, ranks, shape.vocab_size, how.device, patience=500.0)
    model, _ = load_part(config, shape, how, group, num_blocks=4, max_model_len=64)
    found = compute(model)
    group.close()
    return found


def main() -> None:
    """Compute every model that this rank has a part in."""
    torch.set_num_threads(1)
    rank, results = int(sys.argv[1]), {}
    with torch.inference_mode():
        for wanted in sys.argv[3:]:
            ranks, _, folder = wanted.partition("=")
            if rank < int(ranks):
                results[wanted] = part_of(Path(folder), rank, int(ranks))
    if rank == 0:
        torch.save(results, sys.argv[2])


if __name__ == "__main__":
    main()
