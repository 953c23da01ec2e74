"""What storing KV in fewer bytes gains: decoding, and how many sequences fit, by context.

The random 56.9M-parameter Llama of `engine.py`, computed in float32 over pools of KV in float32,
bfloat16 and int8_per_token_head. Steps of eight sequences with one token each alternate between the
pools, so that whatever else the machine does hits all; the ratio is the median of the rounds'. What
it costs in quality is in `quality.py`.

    python benchmarks/kv_cache.py [--threads 2] [--sequences 8] [--quick]
"""

import argparse
import os
import statistics
import sys
import time

import torch
from model import make_model
from peer import CACHE
from report import line, tell

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.attention.stored import KV_CACHE_DTYPES
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native import build

BLOCK = 16
CONTEXTS = (512, 2048, 8192)
EXACT = "float32"
TYPES = {EXACT: torch.float32, **{name: kind for name, kind in KV_CACHE_DTYPES.items() if kind}}
ROOM = 1 << 30
"""Bytes of KV that sequences are counted in."""


def main() -> None:
    """Measure every context, and print a line for each type."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    folder = make_model(CACHE / "llama-57m")
    shape = read_config(folder)
    with torch.inference_mode():
        models = {name: _load(kind, options) for name, kind in TYPES.items()}
        for context in CONTEXTS:
            batch = _batch(options.sequences, context)
            rounds = _rounds(models, batch, 3 if options.quick else 15)
            for name, seconds in rounds.items():
                pairs = zip(rounds[EXACT], seconds, strict=True)
                figure = line(
                    "kv_cache",
                    "decode_tokens_per_second",
                    f"{options.sequences} x {context}, {name}",
                    "tokens/s",
                    options.sequences / statistics.median(seconds),
                    peer=EXACT,
                    peer_value=options.sequences / statistics.median(rounds[EXACT]),
                    median_ratio=round(statistics.median(one / two for one, two in pairs), 3),
                    kv_bytes_per_token=token_bytes(shape, TYPES[name]),
                    sequences_in_a_gib=ROOM // (token_bytes(shape, TYPES[name]) * context),
                    threads=options.threads,
                    load=round(os.getloadavg()[0], 1),
                )
                tell(figure, keep=not options.quick)


def _load(kind: torch.dtype, options: argparse.Namespace) -> Model:
    """Return the model over a pool that is full of noise."""
    kernels = build.find()
    if kernels is None:
        sys.exit("compile the kernels first: python -m penstock_worker.native.build")
    folder = CACHE / "llama-57m"
    shape = read_config(folder)
    how = ExecutionConfig(kernels=kernels, threads=options.threads, kept_as=kind)
    num_blocks = options.sequences * (max(CONTEXTS) // BLOCK + 1)
    pool = KVPool.of(shape, num_blocks, BLOCK, how.kv_dtype)
    size = (BLOCK, shape.num_kv_heads, shape.head_dim)
    for layer in range(shape.num_layers):
        for block in range(num_blocks):
            slots = torch.arange(block * BLOCK, (block + 1) * BLOCK)
            pool.put(layer, slots, torch.randn(size), torch.randn(size))
    return load_model(folder, shape, pool, max(CONTEXTS) + 1, how)


def _batch(count: int, context: int) -> Batch:
    """Return a step that computes the last token of contexts; their blocks lie anywhere."""
    blocks = torch.randperm(count * (max(CONTEXTS) // BLOCK + 1)).tolist()
    each = context // BLOCK
    sequences = [
        Sequence(row, 1, context - 1, blocks[row * each : (row + 1) * each]) for row in range(count)
    ]
    return Batch([1] * count, [context - 1] * count, sequences, list(range(count)))


def _rounds(models: dict[str, Model], batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step, by type and round; a round to warm up is not counted."""
    found: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            began = time.perf_counter()
            for _ in range(5):
                model.greedy(batch)
            if number:
                found[name].append((time.perf_counter() - began) / 5)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="that compute (default: 2)")
    parser.add_argument("--sequences", type=int, default=8, help="that decode (default: 8)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing kept")
    return parser


if __name__ == "__main__":
    main()
