"""What dividing a model among ranks costs and gains on this machine, without GPUs.

A random model's steps alternate between one rank and several, over the same threads in all, with
PyTorch; and what it takes to tell a step of decoding to another rank, as its tables grow.

    python benchmarks/ranks.py [--ranks 2] [--threads 2] [--quick]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from model import make_model
from report import line, tell

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import kv_blocks
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import load_model
from penstock_worker.tensor_parallel.leading import LeadingModel, lead
from penstock_worker.tensor_parallel.messages import Forward
from penstock_worker.tensor_parallel.tables import ReceivedTables, SentTables
from penstock_worker.wire import Decoder, encode

BLOCK, CONTEXT = 16, 512
STEPS = {"decode 1": (1, 1), "decode 32": (32, 1), "prefill 512": (1, CONTEXT)}
"""Sequences of a step, and the tokens that each computes."""
TABLES = ((1, 64), (32, 64), (256, 64), (256, 512))
"""Sequences, and the blocks of each."""


def main() -> None:
    """Measure every step and every message, and print a line for each."""
    options = _parser().parse_args()
    keep, rounds = not options.quick, 5 if options.quick else 30
    for sequences, blocks in TABLES:
        seconds, size = _telling(sequences, blocks, 10 * rounds)
        case = f"{sequences} x {blocks} blocks"
        found = line("ranks", "tell_step_cpu", case, "us", 1e6 * seconds, bytes=size)
        tell(found, keep=keep)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = make_model(Path(folder))
        several = _divided(path, options)
        one = _alone(path, options.threads)
        for case, (count, width) in STEPS.items():
            batch = _batch(count, width)
            ours, theirs = _seconds(several, one, batch, rounds)
            found = line(
                "ranks",
                "step_seconds",
                case,
                "ms",
                1000 * ours,
                peer="one rank",
                peer_value=1000 * theirs,
                ranks=options.ranks,
                threads=options.threads,
            )
            tell(found, keep=keep)
        several.close()


def _config(path: Path, threads: int, ranks: int) -> EngineConfig:
    return EngineConfig(
        model=str(path),
        device="cpu",
        kernels="torch",
        max_model_len=CONTEXT,
        max_num_seqs=32,
        threads=threads,
        tensor_parallel_size=ranks,
    )


def _alone(path: Path, threads: int) -> Model:
    config, shape = _config(path, threads, 1), read_config(path)
    how = execution_config(config, shape)
    pool = KVPool.of(shape, kv_blocks(config, shape, how, CONTEXT), BLOCK, how.dtype)
    return load_model(path, shape, pool, CONTEXT, how)


def _divided(path: Path, options: argparse.Namespace) -> LeadingModel:
    config, shape = _config(path, options.threads, options.ranks), read_config(path)
    model, _, _ = lead(config, shape, execution_config(config, shape), CONTEXT)
    return model


def _batch(count: int, width: int) -> Batch:
    """Return a step whose sequences end at the context's end, each with blocks of its own."""
    blocks = CONTEXT // BLOCK
    start = CONTEXT - width
    return Batch(
        tokens=[7] * (count * width),
        positions=[*range(start, CONTEXT)] * count,
        sequences=[
            Sequence(i * width, width, start, [*range(i * blocks, (i + 1) * blocks)])
            for i in range(count)
        ],
        output_rows=[i * width + width - 1 for i in range(count)],
    )


def _seconds(several: Model, one: Model, batch: Batch, rounds: int) -> tuple[float, float]:
    """Return the median seconds of a step of either, taken in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 2):
        for model, seconds in zip((several, one), found, strict=True):
            began = time.perf_counter()
            model.greedy(batch)
            if turn > 1:  # the first ones warm up
                seconds.append(time.perf_counter() - began)
    return statistics.median(found[0]), statistics.median(found[1])


def _telling(sequences: int, blocks: int, steps: int) -> tuple[float, int]:
    """Return the median CPU seconds of writing and reading a step, and the bytes of one."""
    tables = [[*range(1000 * i, 1000 * i + blocks)] for i in range(sequences)]
    sent, received = SentTables(), ReceivedTables()
    decoder = Decoder(Forward)
    seconds, size = [], 0
    for step in range(steps):
        rows = [Sequence(i, 1, step, tables[i]) for i in range(sequences)]
        batch = Batch([7] * sequences, [step] * sequences, rows, [*range(sequences)])
        began = time.thread_time()
        data = encode(Forward.of(batch, sent, greedy=True))
        (order,) = decoder.feed(data)
        order.batch(received)
        seconds.append(time.thread_time() - began)
        size = len(data)
        if step % BLOCK == 0:
            for table in tables:
                table.append(table[-1] + 1)
    return statistics.median(seconds), size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Several ranks beside one.")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of all ranks together")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing kept")
    return parser


if __name__ == "__main__":
    main()
