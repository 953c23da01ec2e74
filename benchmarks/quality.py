"""What fewer bits of weights or KV, or reading less KV, cost in quality, and gain in speed.

On the example model: every method scores the text that it never saw, in windows as in
`examples/model/evaluate.py`, then decodes eight sequences at once. The ratio is to float32's
perplexity. `--kernels torch` measures the path without native kernels.

    python benchmarks/quality.py [--quick] [--kernels native|torch]
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from report import ROOT, line, tell
from tokenizers import Tokenizer

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native import build
from penstock_worker.sparsity import DENSE_LAYERS, Sparsity

EXAMPLE = ROOT / "examples" / "model"
WINDOW, BLOCK_SIZE = 1024, 16
BLOCKS = WINDOW // BLOCK_SIZE
DECODED, STEPS = 8, 64


def _sparse(tokens: int) -> ExecutionConfig:
    """Return the computation in which all of a window is an answer, which reads so many tokens."""
    layers = range(DENSE_LAYERS, read_config(EXAMPLE).num_layers)
    return ExecutionConfig(sparsity=Sparsity(tokens // BLOCK_SIZE, BLOCK_SIZE, tuple(layers)))


METHODS = {
    "float32": ExecutionConfig(),
    "bfloat16": ExecutionConfig(torch.bfloat16),
    "int8": ExecutionConfig(quantization="int8"),
    "int4": ExecutionConfig(quantization="int4"),
    "kv: bfloat16": ExecutionConfig(kept_as=torch.bfloat16),
    "kv: int8_per_token_head": ExecutionConfig(kept_as=torch.int8),
    "read: 512 of 1024": _sparse(512),
    "read: 256 of 1024": _sparse(256),
    "read: 128 of 1024": _sparse(128),
}


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the first twenty windows only")
    parser.add_argument("--kernels", choices=["native", "torch"], default="native")
    options = parser.parse_args()
    kernels = build.find() if options.kernels == "native" else None
    if options.kernels == "native" and kernels is None:
        sys.exit("the native kernels are not compiled: python -m penstock_worker.native.build")
    windows = list(_windows())[: 20 if options.quick else None]
    exact = None
    for method, stored in METHODS.items():
        if stored.sparsity.blocks and kernels is None:
            continue  # nobody else computes it
        how = replace(stored, kernels=kernels, threads=os.cpu_count() or 1)
        model = _load(how)
        with torch.inference_mode():
            perplexity, scored = _score(model, windows)
            decoded = _decode(model)
        exact = exact or perplexity
        sys.stderr.write(
            f"{method:23} perplexity {perplexity:.3f}, {scored:,.0f} tokens/s scored, "
            f"{decoded:,.0f} decoded\n"
        )
        figure = line(
            "quality",
            "perplexity",
            method,
            "perplexity",
            perplexity,
            peer="float32",
            peer_value=exact,
            kernels=options.kernels,
            scored_tokens_per_second=round(scored),
            decoded_tokens_per_second=round(decoded),
        )
        tell(figure, keep=not options.quick)


def _windows() -> Iterator[tuple[list[int], list[int]]]:
    """Yield what is read and what should have been predicted, a token later, for each window."""
    tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    (begin,) = tokenizer.encode("<|bos|>", add_special_tokens=False).ids
    text = Path(EXAMPLE / "heldout.txt").read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    for start in range(0, len(ids), WINDOW - 1):
        wanted = ids[start : start + WINDOW - 1]
        yield [begin, *wanted[:-1]], wanted


def _load(how: ExecutionConfig) -> Model:
    config = read_config(EXAMPLE)
    bounded = how.sparsity.layers
    pool = KVPool.of(config, BLOCKS * DECODED, BLOCK_SIZE, how.kv_dtype, bounded=bounded)
    return load_model(EXAMPLE, config, pool, WINDOW, how)


def _score(model: Model, windows: list[tuple[list[int], list[int]]]) -> tuple[float, float]:
    """Return the perplexity, and tokens per second."""
    loss, count = 0.0, 0
    began = time.perf_counter()
    for read, wanted in windows:
        rows = list(range(len(read)))
        batch = Batch(read, rows, [Sequence(0, len(read), 0, list(range(BLOCKS)))], rows)
        logits = model.logits(batch)
        loss += torch.nn.functional.cross_entropy(
            logits, torch.tensor(wanted), reduction="sum"
        ).item()
        count += len(wanted)
    return math.exp(loss / count), count / (time.perf_counter() - began)


def _decode(model: Model) -> float:
    """Return output tokens per second of a batch; the tokens themselves do not matter."""
    tokens = list(range(DECODED))
    began = time.perf_counter()
    for step in range(STEPS):
        sequences = [
            Sequence(row, 1, step, list(range(row * BLOCKS, (row + 1) * BLOCKS)))
            for row in range(DECODED)
        ]
        tokens = model.greedy(Batch(tokens, [step] * DECODED, sequences, list(range(DECODED))))
    return DECODED * STEPS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
