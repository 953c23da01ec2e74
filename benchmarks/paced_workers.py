"""Real workers whose steps take what a service curve says, and what they computed in how long."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from penstock_contract.step_cost import Totals
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.exposition import parse
from penstock_operator.autoscaling.scrape import Scrape, ScrapePair
from penstock_operator.autoscaling.steps import new_steps
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.trace import Arrival

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from worker_process import WorkerProcess, eventually, worker

MODEL = "m"
CURVE = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)
"""That of the autoscaler's benchmark: about a 70B model on four H100."""
CHUNK = 1024
"""Tokens of a step."""
LONGEST = 16_384
"""Tokens of a request."""


@dataclass(frozen=True)
class Computed:
    """What workers did between two looks at them."""

    share: float
    """Work done, over what they can do in this time while all their steps are full."""
    busy: float
    """Share of the time that was spent in steps."""
    pace: float
    """Seconds that steps took, over those that the curve says."""


def work(arrival: Arrival) -> float:
    """Return the seconds of a worker that a request takes while all steps are full."""
    every_token = CURVE.a / CHUNK * (arrival.input_tokens + arrival.output_tokens)
    decoding = CURVE.decode_work(arrival.input_tokens, arrival.output_tokens)
    return every_token + CURVE.prefill_work(arrival.input_tokens) + decoding


@contextlib.contextmanager
def workers(folder: Path, count: int, *, tell: bool = True) -> Iterator[list[WorkerProcess]]:
    """Start workers and wait until they are ready; all prompts are computed, none is cached.

    Args:
        folder: for what they log.
        count: of them.
        tell: they tell what their steps cost; otherwise they say no more of it than vLLM.
    """
    cost = f"step={CURVE.a},prefill_token={CURVE.b_p},sequence={CURVE.b_d},kv_token={CURVE.c}"
    flags = ["--served-model-name", MODEL, "--runner", "sim", "--sim-cost", cost]
    flags += ["--sim-kv-tokens", str(CURVE.kv_tokens), "--max-model-len", str(LONGEST)]
    flags += ["--max-num-batched-tokens", str(CHUNK), "--no-enable-prefix-caching"]
    flags += [] if tell else ["--no-self-benchmark"]
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(worker(folder / f"w{n}.log", *flags)) for n in range(count)]
        for one in found:
            eventually(lambda one=one: one.health() == (200, "ok"), "the worker is ready")  # type: ignore[misc]
        yield found


def scrape(pool: Sequence[WorkerProcess]) -> list[Scrape]:
    """Return what workers say of themselves."""
    return [
        parse(
            httpx.get(f"{one.url}/metrics", trust_env=False).text,
            names.WORKER_FAMILIES,
            time.time(),
        )
        for one in pool
    ]


def computed(before: Sequence[Scrape], after: Sequence[Scrape], seconds: float) -> Computed:
    """Return what was done in so many seconds between two scrapes of the same workers."""
    pairs = [ScrapePair(late, early) for early, late in zip(before, after, strict=True)]
    _, steps = new_steps(pairs)
    tokens = steps.prefill + steps.sequences
    done = _seconds(steps) + CURVE.a * (tokens / CHUNK - steps.steps)
    available = seconds * len(before)
    return Computed(done / available, steps.seconds / available, steps.seconds / _seconds(steps))


def _seconds(steps: Totals) -> float:
    variable = CURVE.step_seconds(steps.prefill, steps.sequences, steps.kv) - CURVE.a
    return CURVE.a * steps.steps + variable
