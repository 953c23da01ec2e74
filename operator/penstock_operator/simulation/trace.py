"""Request traces: read from CSV, scaled, or generated.

Columns: `timestamp_s,input_tokens,output_tokens` and others that are ignored; plain or gzip.
"""

import csv
import gzip
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import cos, log, pi
from pathlib import Path


@dataclass(frozen=True)
class Arrival:
    """One request of a trace; time in seconds from its start."""

    time: float
    input_tokens: int
    output_tokens: int


def read(path: Path) -> list[Arrival]:
    """Return the requests of a trace file, by time.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no trace; the message says in which line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"timestamp_s", "input_tokens", "output_tokens"} - set(rows.fieldnames or [])
        if missing:
            raise ValueError(f"{path}: no column {', '.join(sorted(missing))}")
        found = [_arrival(path, number, row) for number, row in enumerate(rows, start=2)]
    return sorted(found, key=lambda arrival: arrival.time)


def _arrival(path: Path, line: int, row: dict[str, str]) -> Arrival:
    try:
        time, given, taken = (
            float(row["timestamp_s"]),
            int(row["input_tokens"]),
            int(row["output_tokens"]),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}:{line}: {error}") from error
    return Arrival(time, max(1, given), max(1, taken))


def scaled(trace: list[Arrival], factor: float, seed: int = 0) -> list[Arrival]:
    """Return a trace with `factor` times the rate and the same shape.

    Every request appears `factor` times (the fraction by chance), each copy moved by up to the gap
    to its neighbour, so that copies do not arrive as one.
    """
    if factor == 1:
        return trace
    draw = random.Random(seed)
    gaps = [after.time - before.time for before, after in pairwise(trace)] + [0.0]
    found = []
    for arrival, gap in zip(trace, gaps, strict=True):
        for _ in range(int(factor) + (draw.random() < factor % 1)):
            time = arrival.time + draw.random() * gap
            found.append(Arrival(time, arrival.input_tokens, arrival.output_tokens))
    return sorted(found, key=lambda arrival: arrival.time)


@dataclass(frozen=True)
class Synthetic:
    """A made-up workload: clients with bursty arrivals, a daily rhythm, long-tailed lengths."""

    seconds: float = 14_400.0
    rate: float = 4.0
    """Requests per second, on average."""
    clients: int = 40
    burstiness: float = 3.0
    """Squared coefficient of variation of a client's inter-arrival times (Gamma); 1 is Poisson."""
    swing: float = 0.6
    """Peak and trough of the rate, as a share of it."""
    period: float = 14_400.0
    """Seconds from peak to peak."""
    input_mean: float = 1000.0
    output_mean: float = 250.0
    spread: float = 1.0
    """Sigma of the log-normal lengths."""


def generate(shape: Synthetic, seed: int = 0) -> list[Arrival]:
    """Return a synthetic trace.

    After Wang et al., "ServeGen" (arXiv 2505.09999): a workload is the sum of clients of very
    different rates, each bursty in its own way.
    """
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(shape.clients)]
    total = sum(weights)
    found = [
        arrival
        for weight in weights
        for arrival in _client(shape, shape.rate * weight / total, draw)
    ]
    return sorted(found, key=lambda arrival: arrival.time)


def _client(shape: Synthetic, rate: float, draw: random.Random) -> Iterator[Arrival]:
    """Arrivals at the peak rate, thinned to the rhythm."""
    peak = rate * (1 + shape.swing)
    share = 1 / shape.burstiness
    time = draw.uniform(0, 1 / peak)
    while time < shape.seconds:
        level = 1 - shape.swing * cos(2 * pi * time / shape.period)
        if draw.random() * (1 + shape.swing) < level:
            given = _length(draw, shape.input_mean, shape.spread)
            yield Arrival(time, given, _length(draw, shape.output_mean, shape.spread))
        time += draw.gammavariate(share, 1 / (share * peak))


def _length(draw: random.Random, mean: float, spread: float) -> int:
    location = log(mean) - spread**2 / 2  # so that the mean is the mean
    return max(1, round(draw.lognormvariate(location, spread)))
