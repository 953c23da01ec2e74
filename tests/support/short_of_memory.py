"""A process that runs a long step while memory is short, as a program of its own.

    short_of_memory.py LIBRARY CHECKPOINT

It computes a short step, then allows itself ever more memory until a long one fits, and prints how
often it did not. Then it asks for more threads than there is memory for, and prints that there were
none.
"""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import torch
from engines import load

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig

SPARE = 128 << 10
"""More bytes at each attempt."""
STACKS = 256 << 20
"""Bytes for those of threads."""
LENGTH, BLOCKS, MOST = 100, 7, 9


def step(count: int) -> Batch:
    """Return the prefill of some sequences."""
    rows = count * LENGTH
    prompts = [
        Sequence(i * LENGTH, LENGTH, 0, list(range(i * BLOCKS, (i + 1) * BLOCKS)))
        for i in range(count)
    ]
    return Batch([1] * rows, list(range(LENGTH)) * count, prompts, list(range(rows)))


def used() -> int:
    """Return the bytes of addresses that are taken."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def allow(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def failed_steps(model: Model) -> int:
    """Return how often a step failed before there was memory enough."""
    model.greedy(step(1))
    limit, failures = used(), 0
    while True:
        allow(limit)
        try:
            found = model.greedy(step(MOST))
            break
        except MemoryError:
            failures += 1
            limit += SPARE
    allow(resource.RLIM_INFINITY)
    assert found == model.greedy(step(MOST))
    return failures


def main() -> None:
    library, checkpoint = map(Path, sys.argv[1:])
    with torch.inference_mode():
        how = ExecutionConfig(kernels=library, threads=2)
        failures = failed_steps(load(checkpoint, how, num_blocks=MOST * BLOCKS))
        sys.stdout.write(f"{failures}\n")
        allow(used() + STACKS)
        try:
            load(checkpoint, replace(how, threads=256), num_blocks=1)
        except MemoryError:
            sys.stdout.write("no threads\n")


if __name__ == "__main__":
    main()
