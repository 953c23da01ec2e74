"""From scrapes to what the autoscaler decides by. Pure.

Arrivals are counted at the gateways: what is offered, not what is served. What a request is worth
comes from the workers: its mean lengths, and what their steps cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock_contract.api import Role
from penstock_contract.step_cost import StepCost
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.gather import gather, late_share, level, rate
from penstock_operator.autoscaling.learned import Learned, Lengths, Mean, Steps
from penstock_operator.autoscaling.scrape import Labels, ScrapePair, Scrapes, label
from penstock_operator.autoscaling.steps import kv_capacity, new_steps, own_totals
from penstock_operator.autoscaling.topology import PoolTopology, Topology
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.signal import ABSENT, Signal
from penstock_operator.scaling.spec import ScalingSpec

ANY: Labels = frozenset()


@dataclass(frozen=True)
class Observed:
    """An observation, what was learned on the way, and what is wrong with the metrics."""

    observation: Observation
    learned: Learned
    problems: tuple[str, ...] = ()


def observe(
    topology: Topology,
    scrapes: Scrapes,
    earlier: Scrapes,
    learned: Learned,
    spec: ScalingSpec,
    now: float,
) -> Observed:
    """Return what is seen of a deployment.

    Args:
        topology: who is there.
        scrapes: the scrapes of all targets now.
        earlier: those before: a target whose scrape is newer than there teaches something.
        learned: what the last call returned.
        spec: the objectives that requests are compared with.
        now: seconds of the wall clock.
    """
    news = {
        target: pair
        for target, pair in scrapes.pairs.items()
        if pair.before is not None and pair != earlier.pairs.get(target)
    }
    elapsed = now - learned.time if learned.time is not None else 0.0
    lengths = _lengths(learned.lengths, [news[w] for w in topology.workers if w in news])
    steps, curves = dict[str, Steps](), dict(learned.curves)
    for pool in topology.pools:
        before = learned.steps.get(pool.name, Steps())
        pairs = [news[worker] for worker in pool.workers if worker in news]
        steps[pool.name] = before.after(*new_steps(pairs), elapsed)
        known = [pair for w in pool.workers if (pair := scrapes.pairs.get(w))]
        if curve := steps[pool.name].curve(_prior(known), kv_capacity(known)):
            curves[pool.name] = curve
    views = {p.name: _view(p, scrapes, curves.get(p.name), lengths, now) for p in topology.pools}
    traffic = _traffic(topology, scrapes, lengths, spec, now)
    return Observed(
        Observation(traffic, views),
        Learned(lengths, steps, curves, now),
        _problems(topology, scrapes),
    )


def _lengths(before: Lengths, news: Sequence[ScrapePair]) -> Lengths:
    def after(mean: Mean, total: tuple[str, ...], count: tuple[str, ...]) -> Mean:
        for pair in news:
            mean = mean.after(pair.increase(total), pair.increase(count))
        return mean

    return Lengths(
        given=after(before.given, names.PROMPT_SUM, names.PROMPT_COUNT),
        computed=after(before.computed, names.COMPUTED_SUM, names.COMPUTED_COUNT),
        taken=after(before.taken, names.OUTPUT_SUM, names.OUTPUT_COUNT),
    )


def _prior(pairs: Sequence[ScrapePair]) -> StepCost | None:
    """Return what the workers measured when they started: the mean over them."""
    costs = [
        {dict(labels)["term"]: value for labels, value in pair.latest.series(names.STEP_COST)}
        for pair in pairs
    ]
    costs = [cost for cost in costs if sum(cost.values()) > 0]
    if not costs:
        return None

    def mean(term: str) -> float:
        return sum(cost.get(term, 0.0) for cost in costs) / len(costs)

    return StepCost(mean("step"), mean("prefill_token"), mean("sequence"), mean("kv_token"))


def _view(
    pool: PoolTopology, scrapes: Scrapes, curve: ServiceCurve | None, lengths: Lengths, now: float
) -> PoolView:
    pairs = [scrapes.pairs.get(worker) for worker in pool.workers]
    capacity = curve.kv_tokens if curve else 0.0
    computed = lengths.computed.known or lengths.given.known or 0.0

    def kv(pair: ScrapePair) -> float | None:
        usage = pair.latest.total(names.KV_USAGE)
        return usage * (kv_capacity([pair]) or capacity) if usage else usage

    waiting = gather(pairs, level(names.WAITING, ANY), now)
    view = PoolView(
        desired=pool.desired,
        ready=pool.ready,
        starting=pool.starting,
        draining=pool.draining,
        running=gather(pairs, level(names.RUNNING, ANY), now),
        waiting_tokens=_times(waiting, computed),
        kv_tokens=gather(pairs, kv, now),
        waiting=waiting,
        curve=curve,
    )
    if curve is None or pool.role is Role.PREFILL:
        return view
    return replace(view, decode_share=gather(pairs, lambda p: _decoding(p, curve), now))


def _step_seconds(pair: ScrapePair) -> float | None:
    for total, count in (
        (names.OWN_STEP_SUM, names.OWN_STEP_COUNT),
        (names.ITL_SUM, names.ITL_COUNT),
    ):
        seconds, steps = pair.increase(total), pair.increase(count)
        if seconds is not None and steps:
            return seconds / steps
    return None


def _decoding(pair: ScrapePair, curve: ServiceCurve) -> float | None:
    """Return the share of a worker's time that went into generating."""
    if pair.before is None:
        return None
    if own := own_totals(pair):
        return (curve.b_d * own.sequences + curve.c * own.kv) / pair.seconds
    running, usage = pair.latest.total(names.RUNNING), pair.latest.total(names.KV_USAGE)
    if running is None or usage is None:
        return None
    took = _step_seconds(pair)
    context = usage * curve.kv_tokens if usage else 0.0
    return (curve.b_d * running + curve.c * context) / took if took else 0.0


def _traffic(
    topology: Topology, scrapes: Scrapes, lengths: Lengths, spec: ScalingSpec, now: float
) -> Traffic:
    model = label(model=topology.model)
    gateways = [scrapes.pairs.get(gateway) for gateway in topology.gateways]
    arrivals = gather(gateways, rate(names.ARRIVALS, model), now)
    queued = gather(gateways, level(names.QUEUED, model), now)
    given, taken = lengths.given.known, lengths.taken.known
    computed = lengths.computed.known if lengths.computed.known is not None else given
    late_ttft, late_tpot = _late(topology, scrapes, spec, gateways, model)
    return Traffic(
        arrivals=arrivals,
        uncached_tokens=_times(arrivals, computed or 0.0),
        input_tokens=ABSENT if given is None else Signal(given),
        output_tokens=ABSENT if taken is None else Signal(taken),
        late_share=_worst(late_ttft, late_tpot),
        late_ttft=late_ttft,
        late_tpot=late_tpot,
        queued_requests=queued,
        queued_tokens=_times(queued, computed or 0.0),
        spare_share=_spare_share(gateways, model, now),
    )


def _spare_share(gateways: Sequence[ScrapePair | None], model: Labels, now: float) -> Signal:
    """Return the share of batches in what workers have; gateways that know none say nothing."""
    spare = gather(gateways, level(names.SPARE_IN_FLIGHT, model), now)
    own = gather(gateways, level(names.IN_FLIGHT, model), now)
    if spare.value is None or own.value is None:
        return ABSENT
    both = spare.value + own.value
    return replace(spare, value=spare.value / both if both else 0.0)


def _late(
    topology: Topology,
    scrapes: Scrapes,
    spec: ScalingSpec,
    gateways: Sequence[ScrapePair | None],
    model: Labels,
) -> tuple[Signal, Signal]:
    """Return the shares of requests that missed TTFT and TPOT; absent without an objective."""
    workers = [scrapes.pairs.get(worker) for worker in topology.workers]
    ttft, tpot = ABSENT, ABSENT
    if spec.ttft:
        ttft = _worst(
            late_share(gateways, names.QUEUE_SECONDS, model, spec.ttft.seconds),
            late_share(workers, names.TTFT, ANY, spec.ttft.seconds),
        )
    if spec.tpot:
        tpot = late_share(workers, names.TPOT, ANY, spec.tpot.seconds)
    return ttft, tpot


def _worst(*shares: Signal) -> Signal:
    """Return the largest share: nobody counts who missed several of the ways to be late."""
    known = [share for share in shares if share.value is not None]
    return max(known, key=lambda share: share.value or 0.0, default=ABSENT)


def _times(signal: Signal, factor: float) -> Signal:
    return signal if signal.value is None else replace(signal, value=signal.value * factor)


def _problems(topology: Topology, scrapes: Scrapes) -> tuple[str, ...]:
    """A worker that exports none of the names that are needed is no idle worker."""
    return tuple(
        f"{worker} exports none of {', '.join(wanted)}"
        for worker in topology.workers
        if (pair := scrapes.pairs.get(worker))
        for wanted in names.NEEDED
        if pair.latest.total(wanted) is None
    )
