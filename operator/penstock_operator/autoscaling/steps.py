"""What scrapes tell of engine steps. Pure.

Penstock's workers export the sums that a fit of their cost needs. Of others the mean step of each
interval is seen from outside, so that the cost is known after intervals of different load.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import inf

from penstock_contract.step_cost import Totals, moments
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.scrape import ScrapePair


def new_steps(pairs: Sequence[ScrapePair]) -> tuple[dict[str, float], Totals]:
    """Return the rises of `STEP_MOMENTS` over all workers, and what their steps came to."""
    rises: dict[str, float] = {}
    each = []
    for pair in pairs:
        own, products = own_totals(pair), _own_moments(pair)
        outside = None if own and products else _outside_totals(pair)
        for product, rise in (products or _like_their_mean(outside)).items():
            rises[product] = rises.get(product, 0.0) + rise
        if totals := own or outside:
            each.append(asdict(totals))
    return rises, Totals(**{name: sum(one[name] for one in each) for name in asdict(Totals())})


def own_totals(pair: ScrapePair) -> Totals | None:
    """Return what a worker tells of its steps; None: it does not."""
    steps, seconds = pair.increase(names.OWN_STEP_COUNT), pair.increase(names.OWN_STEP_SUM)
    context = pair.increase(names.OWN_STEP_CONTEXT)
    tokens = pair.by_label(names.OWN_STEP_TOKENS, "kind")
    if steps is None or seconds is None or context is None or not tokens:
        return None
    return Totals(steps, seconds, tokens.get("prefill", 0.0), tokens.get("decode", 0.0), context)


def _own_moments(pair: ScrapePair) -> dict[str, float]:
    return pair.by_label(names.MOMENTS, "product")


def _like_their_mean(totals: Totals | None) -> dict[str, float]:
    """Return the moments of steps that are only known together, as if all were alike."""
    if totals is None:
        return {}
    values = (totals.seconds, totals.prefill, totals.sequences, totals.kv)
    return {n: totals.steps * v for n, v in moments(*(value / totals.steps for value in values))}


def _outside_totals(pair: ScrapePair) -> Totals | None:
    """Return what vLLM tells: it counts steps and tokens, and times what is between two tokens."""
    steps = pair.increase(names.STEPS)
    gaps, between = pair.increase(names.ITL_COUNT), pair.increase(names.ITL_SUM)
    tokens, decoded = pair.increase(names.STEP_TOKENS), pair.increase(names.GENERATED)
    usage = pair.latest.total(names.KV_USAGE)
    capacity = kv_capacity([pair])
    if not steps or not gaps or between is None or tokens is None or decoded is None:
        return None
    context = steps * usage * (capacity or 0.0) if usage else 0.0
    return Totals(steps, steps * between / gaps, max(0.0, tokens - decoded), decoded, context)


def kv_capacity(pairs: Sequence[ScrapePair]) -> float | None:
    """Return the KV tokens of one worker: the least of all, should they differ.

    One that computes vectors keeps no KV, so it can hold any number.
    """
    found = []
    for pair in pairs:
        for labels, _ in pair.latest.series(names.CACHE_CONFIG):
            shape = dict(labels)
            size, blocks = shape.get("block_size", ""), shape.get("num_gpu_blocks", "")
            if size.isdigit() and blocks.isdigit():
                found.append(float(size) * float(blocks) or inf)
    return min(found, default=None)
