"""How threads that wait for each other should wait: on an idle machine, and beside others.

One question after another is embedded, by PyTorch's kernels with GNU's OpenMP told to spin for so
many turns before it sleeps (GOMP_SPINCOUNT), and by the native kernels, whose own threads need no
setting. Each is asked in turn, alone, beside a busy loop on each processor, and beside a second
worker that computes all the time. Who is not measured stands still.

    python benchmarks/spinning.py [--spins 0,300,1000,3000,10000] [--quick]
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from embeddings import LONGEST, make_encoder, texts_of
from peer import CACHE, Engine
from report import line, tell

NEIGHBOURS = ("none", "loops", "worker")
QUESTIONS = 20
"""Of a round."""
LOOP = "while True: pass"
WORKER = """
import torch
states, weights = torch.randn(512, 384), torch.randn(384, 384)
while True:
    states = torch.tanh(states @ weights)
"""
"""Many short parallel regions, as in PyTorch's steps; its threads spin as long as they like."""
SPINS = "GOMP_SPINCOUNT"


def main() -> None:
    """Measure every way to wait beside every neighbour, and print a line for each."""
    options = _parser().parse_args()
    engines = {f"torch, {spins} spins": _engine("torch", spins) for spins in options.spins}
    engines["native"] = _engine("native", options.spins[0])
    for neighbour in NEIGHBOURS:
        with _beside(neighbour):
            rates = _rounds(engines, 2 if options.quick else 7)
        for name, values in rates.items():
            figure = line(
                "spinning",
                "texts_per_second",
                f"{name}, beside {neighbour}",
                "texts/s",
                statistics.median(values),
                peer=f"torch, {options.spins[0]} spins",
                peer_value=statistics.median(rates[f"torch, {options.spins[0]} spins"]),
            )
            tell(figure, keep=not options.quick)
    for engine in engines.values():
        engine.close()


def _engine(kernels: str, spins: int) -> Engine:
    asked = {
        "model": str(make_encoder(CACHE / "bert-33m")),
        "dtype": "float32",
        "threads": len(os.sched_getaffinity(0)),
        "max_tokens": LONGEST,
        "kernels": kernels,
        "one_by_one": True,
    }
    before = os.environ.get(SPINS)
    os.environ[SPINS] = str(spins)
    try:
        return Engine(sys.executable, "penstock_embed.py", asked)
    finally:
        os.environ.pop(SPINS)
        if before is not None:
            os.environ[SPINS] = before


@contextlib.contextmanager
def _beside(neighbour: str) -> Iterator[None]:
    """Keep the machine busy meanwhile."""
    processors = len(os.sched_getaffinity(0))
    programs = {"none": [], "loops": [LOOP] * processors, "worker": [WORKER]}[neighbour]
    started = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _rounds(engines: dict[str, Engine], rounds: int) -> dict[str, list[float]]:
    """Return texts per second of each, round by round; one to warm up is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        texts = [texts_of("question", 100 * number + n)[0] for n in range(QUESTIONS)]
        for name, engine in engines.items():
            answer = engine.ask({"texts": texts})
            if number:
                rates[name].append(QUESTIONS / answer["seconds"])
    return rates


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--spins",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[0, 300, 1000, 3000, 10_000],
        help="comma-separated; the first is what the others are compared with",
    )
    parser.add_argument("--quick", action="store_true", help="two rounds instead of seven")
    return parser


if __name__ == "__main__":
    main()
