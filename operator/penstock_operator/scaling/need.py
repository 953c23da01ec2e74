"""Little's law: how many replicas a role needs, resource by resource, and which one binds.

L = λ·W. Work arrives at λ requests per second, each worth w replica-seconds, so λ·w replicas are
busy at any moment; whatever else a resource is (KV blocks, prefill servers), the count that it
needs follows the same way. The largest count wins, and its name is the reason.
"""

from dataclasses import dataclass, replace
from math import ceil, inf

from penstock_contract.api import Role
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decoding import Decoding
from penstock_operator.scaling.forecast import SMALL, Forecast
from penstock_operator.scaling.observation import PoolView, Traffic
from penstock_operator.scaling.spec import Objective, ScalingSpec
from penstock_operator.scaling.staffing import servers_for

DEFAULT_TTFT = Objective(0.9, 2.0)
DEFAULT_TPOT = Objective(0.9, 0.1)
"""Without objectives of the user: what people call responsive."""
FULLEST = 0.95
"""Share of a replica that even a burst may fill: above it queues grow without bound."""
SLOTS_FILL = 0.7
"""Share of a replica's sequences that the Concurrency policy plans for."""
KV_FILL = 0.9
"""Share of the KV cache that may be planned for; the rest absorbs what is not known of lengths."""
SEQUENCES_FILL = 0.9
"""Share of a replica's sequences that may be planned for: a pool that has none free grows."""
SLACK = 1e-9
"""Rounding must not buy a replica."""


@dataclass(frozen=True)
class Demand:
    """What a role is asked for, in replica-seconds per second; and the KV that it holds."""

    prefill: float
    decode: float
    kv_tokens: float = 0.0
    sequences: float = 0.0
    """In progress; what waits for a place among them is not: it goes as soon as it has one."""
    backlog: float = 0.0
    """Replica-seconds of prompts that already wait."""
    own_prefill: float = 0.0
    """Mean replica-seconds of one prompt."""

    @property
    def total(self) -> float:
        """Work that arrives."""
        return self.prefill + self.decode


@dataclass(frozen=True)
class Need:
    """Replicas needed, the resource that binds, and the arithmetic."""

    replicas: int
    binding: str
    counts: dict[str, float]
    """Replicas that each resource needs, before rounding."""
    numbers: dict[str, float]
    """What they were computed from."""
    infeasible: str = ""
    """Why no number of replicas meets the objective; empty: one does."""


def compared(
    before: Decoding, curve: ServiceCurve, traffic: Traffic, pool: PoolView, elapsed: float
) -> Decoding:
    """Return what is known of decode work, with the last `elapsed` seconds."""
    seen, asked = pool.decode_share, _asked_share(traffic)
    if seen.value is not None:
        seen = replace(seen, value=asked * seen.value)
    return before.after(_offered_decoding(curve, traffic), seen, elapsed)


def _offered_decoding(curve: ServiceCurve, traffic: Traffic) -> float:
    given, taken = traffic.input_tokens.at_least, traffic.output_tokens.at_least
    return traffic.arrivals.at_least * curve.decode_work(given, taken)


def demand(
    role: Role, curve: ServiceCurve, traffic: Traffic, pool: PoolView, decoding: Decoding
) -> Demand:
    """Return the work offered to a role; `decoding` is what is known of that part."""
    arrivals, tokens = traffic.arrivals.at_least, traffic.uncached_tokens.at_least
    prefill = curve.prefill_work(tokens) if role is not Role.DECODE else 0.0
    decode = _offered_decoding(curve, traffic) + decoding.beyond
    asked = _asked_share(traffic)
    waiting = traffic.queued_tokens.at_least + asked * pool.waiting_tokens.at_least
    return Demand(
        prefill=prefill,
        decode=decode if role is not Role.PREFILL else 0.0,
        kv_tokens=asked * pool.kv_tokens.at_least + traffic.queued_tokens.at_least,
        sequences=asked * pool.running.at_least,
        backlog=curve.prefill_work(waiting) if role is not Role.DECODE else 0.0,
        own_prefill=prefill / arrivals if arrivals > 0 else 0.0,
    )


def need(
    role: Role,
    curve: ServiceCurve,
    now: Demand,
    ahead: Forecast,
    factor: float,
    spec: ScalingSpec,
    slots: int,
) -> Need:
    """Return how many replicas a role needs to hold its objectives for the next lead.

    Args:
        role: of the pool.
        curve: of its replicas.
        now: what is asked of the role.
        ahead: how that goes on.
        factor: on the forecast's errors.
        spec: the objectives.
        slots: sequences that a replica runs at once.
    """
    tpot, ttft = spec.tpot or DEFAULT_TPOT, spec.ttft or DEFAULT_TTFT
    busy = curve.busy_share(tpot.seconds)
    burst = ahead.bound(factor)
    numbers = {
        "prefill_work": now.prefill,
        "decode_work": now.decode,
        "level": ahead.level,
        "bound": burst,
        "kv_tokens": now.kv_tokens,
        "sequences": now.sequences,
        "backlog_seconds": now.backlog,
    }
    counts = {"backlog": (ahead.level + now.backlog / spec.lead) / FULLEST}
    if role is Role.PREFILL:
        counts["ttft"] = float(_prefill_servers(burst, now.own_prefill, ttft))
    else:
        if busy <= 0:
            return Need(0, "tpot", {}, numbers, _infeasible(curve, tpot))
        # TPOT averages over a whole answer, so it follows the mean; a burst only has to fit in.
        counts["tpot"] = ahead.mean / busy
        counts["burst"] = burst / FULLEST
        # Below a replica of work, what is held says nothing about what more work would hold: the
        # last long answer of a day would seem to multiply without bound.
        rise = 1 + (burst - ahead.level) / max(ahead.level, SMALL)
        counts["kv"] = now.kv_tokens * rise / (KV_FILL * curve.kv_tokens)
        counts["sequences"] = now.sequences * rise / (SEQUENCES_FILL * slots)
        numbers["busy_share"] = busy
    binding = max(counts, key=lambda name: counts[name])
    return Need(max(0, ceil(counts[binding] - SLACK)), binding, counts, numbers)


def in_progress(traffic: Traffic, pool: PoolView, slots: int) -> Demand:
    """Return what the Concurrency policy goes by: sequences in progress or waiting, in replicas."""
    held = _asked_share(traffic) * (pool.running.at_least + pool.waiting.at_least)
    return Demand(prefill=0.0, decode=(held + traffic.queued_requests.at_least) / slots)


def _asked_share(traffic: Traffic) -> float:
    """Return the share of what workers hold that clients wait for.

    The rest is of batches, which fill whatever a pool has: sized by them, it would give them more
    to fill, and grow to its maximum.
    """
    spare = traffic.spare_share
    return 1 - min(1.0, spare.at_least) if spare.fresh else 1.0


def concurrency_need(now: Demand, ahead: Forecast, factor: float) -> Need:
    """Return how many replicas hold the sequences in progress: no law, no objective, no curve."""
    burst = ahead.bound(factor)
    counts = {"concurrency": ahead.mean / SLOTS_FILL, "burst": burst}
    binding = max(counts, key=lambda name: counts[name])
    numbers = {"level": ahead.level, "bound": burst, "in_progress": now.decode}
    return Need(max(0, ceil(counts[binding] - SLACK)), binding, counts, numbers)


def _prefill_servers(load: float, own: float, ttft: Objective) -> int:
    """Prefill is a queue: its servers keep the wait inside what TTFT leaves after own prefill."""
    patience = (ttft.seconds - own) / own if own > 0 else inf
    return servers_for(load, max(0.0, patience), 1 - ttft.quantile)


def _infeasible(curve: ServiceCurve, tpot: Objective) -> str:
    return (
        f"an empty step takes {curve.a * 1000:.0f} ms, more than the TPOT objective of "
        f"{tpot.seconds * 1000:.0f} ms: no number of replicas meets it"
    )
