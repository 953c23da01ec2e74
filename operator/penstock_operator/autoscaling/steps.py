"""What scrapes tell of engine steps. Pure.

Penstock's workers export the sums that a fit of their cost needs. Of others the mean step of each
interval is seen from outside, so that the cost is known after intervals of different load.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import exp, inf

from penstock_contract.step_cost import Totals, moments
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.scrape import ScrapePair


def new_steps(pairs: Sequence[ScrapePair]) -> tuple[dict[str, float], Totals]:
    """Return the rises of `STEP_MOMENTS` over all workers, and what their steps came to."""
    rises: dict[str, float] = {}
    each = []
    for pair in pairs:
        own, products = own_totals(pair), _own_moments(pair)
        outside = None if own and products else _outside(pair)
        sums, totals = outside or ({}, None)
        for product, rise in (products or sums).items():
            rises[product] = rises.get(product, 0.0) + rise
        if found := own or totals:
            each.append(asdict(found))
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


def _outside(pair: ScrapePair) -> tuple[dict[str, float], Totals] | None:
    """Return the moments and the totals of steps that are only known together: vLLM's.

    It counts steps and tokens, and times what comes out of them: the gaps between two tokens, and
    how long a prompt was computed. Both are taken for steps, as if all of an interval were alike.
    Of prompts no gap tells that were computed while nothing decoded: as often as a Poisson
    distribution is zero whose mean is the number of sequences that did (L = λ·W again).
    """
    steps, each = pair.increase(names.STEPS), _step_from_outside(pair)
    tokens, decoded = pair.increase(names.STEP_TOKENS), pair.increase(names.GENERATED)
    if not steps or each is None or tokens is None or decoded is None:
        return None
    usage = pair.latest.total(names.KV_USAGE)
    context = (usage or 0.0) * (kv_capacity([pair]) or 0.0)
    prefill = max(0.0, tokens - decoded)
    seen = Totals(steps, steps * each, prefill, decoded, steps * context)
    if not decoded or (prompts := _prompts(pair)) is None:
        return _alike(steps, each, prefill / steps, decoded / steps, context), seen
    decoding = (pair.increase(names.ITL_SUM) or 0.0) / pair.seconds
    alone = exp(-decoding)
    sums = _alike(steps, each, (1 - alone) * prefill / steps, decoded / steps, context)
    for name, value in _alike(*prompts, decoding, context).items():
        sums[name] += value
    return sums, replace(seen, seconds=seen.seconds + alone * _unseen_seconds(pair, prompts, each))


def _alike(
    steps: float, seconds: float, prefill: float, sequences: float, kv: float
) -> dict[str, float]:
    """Return the moments of so many steps that are all alike."""
    return {name: steps * value for name, value in moments(seconds, prefill, sequences, kv)}


def _prompts(pair: ScrapePair) -> tuple[float, float, float] | None:
    """Return how many prompts were computed, how long that took, and the tokens meanwhile.

    By L = λ·W, if more than one at a time was under way, the tokens of so many were computed.
    """
    count, seconds = pair.increase(names.PREFILL_COUNT), pair.increase(names.PREFILL_SUM)
    tokens = pair.increase(names.COMPUTED_SUM)
    if not count or seconds is None or tokens is None:
        return None
    return count, seconds / count, tokens / count * max(1.0, seconds / pair.seconds)


def _unseen_seconds(pair: ScrapePair, prompts: tuple[float, float, float], gap: float) -> float:
    """Return what prompts took beyond the gap that each of their steps was counted as."""
    count, each, _ = prompts
    return max(0.0, min(count * each, pair.seconds) - count * gap)


def _step_from_outside(pair: ScrapePair) -> float | None:
    """Return the mean seconds of a step: what lies between two tokens.

    Where no tokens come out of steps (a model that embeds or scores), a step is what a request
    takes once its turn has come.
    """
    if gaps := pair.increase(names.ITL_COUNT):
        between = pair.increase(names.ITL_SUM)
        return None if between is None else between / gaps
    requests, computing = pair.increase(names.PREFILL_COUNT), pair.increase(names.PREFILL_SUM)
    if pair.increase(names.GENERATED) or not requests or computing is None:
        return None
    return computing / requests


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
