"""What a better forecast could save: the scaler's levels beside the best linear forecast there is.

    python benchmarks/forecast_limit.py --trace PATH [--scale K] [--ttft 2]

Work that a trace brings is put into bins of five seconds. At every moment a forecast says what a
TTFT objective's worth of it will be one lead later, and a room in units of the forecast's root is
kept above it, as large as lets one moment in fifty exceed it. Prints the room with each of the
scaler's levels, and with least squares over all levels and the last two and a half minutes, fitted
to this very trace in hindsight: no linear forecast from the same past can need much less. The
metric is capacity (forecast and room) over mean work; its peer is that regression.
"""

import argparse
import sys
from collections.abc import Mapping
from math import exp

import numpy as np
from autoscaler import CURVE, parser
from numpy.typing import NDArray
from report import line, tell

from penstock_operator.scaling.forecast import SMALL, SMOOTHINGS
from penstock_operator.simulation.trace import Arrival, read, scaled

BIN = 5.0
"""Seconds."""
LAGS = 30
"""Bins that the regression sees one by one."""
SETTLED = 300.0
"""Seconds after which levels are compared."""
EXCEEDED = 0.02
"""Share of the moments in which more may come than there is room for."""

Series = NDArray[np.float64]


def main() -> None:
    """Measure and print."""
    options = _options()
    trace = scaled(read(options.trace), options.scale)
    if options.quick:
        trace = [arrival for arrival in trace if arrival.time < 1200]
    work = _work(trace)
    forecasts, came = _forecasts(work, options.lead, options.ttft)
    needed = {name: _needed(forecast, came) for name, forecast in forecasts.items()}
    limit = needed["least squares in hindsight"]
    for name, capacity in needed.items():
        print(f"{name:<28} {capacity:6.3f} of the mean work", file=sys.stderr)
        figure = line(
            "forecast_limit", "capacity", f"{options.trace.name} ×{options.scale:g}: {name}",
            "share of mean work", capacity, peer="least squares in hindsight", peer_value=limit,
        )  # fmt: skip
        tell(figure, keep=not options.quick)


def _options() -> argparse.Namespace:
    own = parser(__doc__.splitlines()[0])
    own.add_argument("--lead", type=float, default=75.0, help="seconds until a replica serves")
    return own.parse_args()


def _work(trace: list[Arrival]) -> Series:
    """Return replica-seconds per second that arrive, by bin."""
    found = np.zeros(int(trace[-1].time / BIN) + 1)
    for arrival in trace:
        found[int(arrival.time / BIN)] += CURVE.prefill_work(arrival.input_tokens)
        found[int(arrival.time / BIN)] += CURVE.decode_work(
            arrival.input_tokens, arrival.output_tokens
        )
    return found / BIN


def _forecasts(work: Series, lead: float, patience: float) -> tuple[Mapping[str, Series], Series]:
    """Return forecasts by name, and the work that then came, for every moment that has both."""
    ahead, first = round(lead / BIN), round(SETTLED / BIN)
    width = max(1, round(patience / BIN))
    felt = np.convolve(work, np.ones(width) / width)[: len(work)]
    came = felt[first + ahead :]
    seen = slice(first, len(work) - ahead)
    levels = {f"level over {memory:g} s": _level(work, memory)[seen] for memory in SMOOTHINGS}
    past = [work[first - lag : len(work) - ahead - lag] for lag in range(LAGS)]
    known = np.stack([*levels.values(), *past, np.ones(len(came))], axis=1)
    weights = np.linalg.lstsq(known, came, rcond=None)[0]
    return levels | {"least squares in hindsight": known @ weights}, came


def _level(work: Series, memory: float) -> Series:
    """Return the exponentially weighted average, as the scaler keeps it."""
    found, level = np.empty_like(work), float(work[0])
    for index, value in enumerate(work):
        level += (1 - exp(-BIN / memory)) * (value - level)
        found[index] = level
    return found


def _needed(forecast: Series, came: Series) -> float:
    """Return the mean capacity over the mean work, with as much room as holds EXCEEDED."""
    unit = np.sqrt(np.maximum(forecast, SMALL))
    room = np.quantile((came - forecast) / unit, 1 - EXCEEDED)
    return float(np.mean(forecast + room * unit) / np.mean(came))


if __name__ == "__main__":
    main()
