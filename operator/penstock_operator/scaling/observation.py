"""What the autoscaler sees of a deployment at one moment, whoever measured it.

The same form comes from Prometheus, from a direct scrape and from the simulator, so a decision can
be replayed from a log. Rates are per second over the time since the last observation; sums run over
all workers of a pool, draining ones included, because their work must go somewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.signal import ABSENT, Signal, added


@dataclass(frozen=True)
class Traffic:
    """What clients ask of a deployment, measured at the gateway: offered, not served."""

    arrivals: Signal = ABSENT
    """Requests per second, queued ones included."""
    uncached_tokens: Signal = ABSENT
    """Prompt tokens per second that no prefix cache holds."""
    input_tokens: Signal = ABSENT
    """Mean prompt tokens of a request."""
    output_tokens: Signal = ABSENT
    """Mean generated tokens of a request, from those that ended."""
    late_share: Signal = ABSENT
    """Share of the requests that ended which missed an objective; absent when none ended."""
    late_ttft: Signal = ABSENT
    """The same for the objective of the first token alone."""
    late_tpot: Signal = ABSENT
    """The same for the objective of the tokens after it."""
    queued_requests: Signal = ABSENT
    """Waiting at the gateway."""
    queued_tokens: Signal = ABSENT
    """Their prompt tokens."""
    spare_share: Signal = ABSENT
    """Share of batches in the requests that workers have: they fill what is there, and ask for
    nothing more."""


@dataclass(frozen=True)
class PoolView:
    """What is seen of one pool."""

    desired: int
    """What its EnginePool asks for."""
    ready: int
    starting: int = 0
    draining: int = 0
    running: Signal = ABSENT
    """Sequences that decode, over all workers."""
    waiting_tokens: Signal = ABSENT
    """Prompt tokens in the workers that are not computed yet."""
    kv_tokens: Signal = ABSENT
    """KV tokens in use, over all workers."""
    waiting: Signal = ABSENT
    """Sequences that wait for a place, over all workers."""
    decode_share: Signal = ABSENT
    """Replica-seconds per second that decoding took: (b_d·running + c·kv) / T, over all workers."""
    curve: ServiceCurve | None = None
    """As measured by its workers; None: not known yet."""


def together(views: Sequence[PoolView]) -> PoolView:
    """Return several pools as if they were one, without a curve."""
    if len(views) == 1:
        return views[0]
    serving = [view for view in views if view.ready or view.draining]
    return PoolView(
        desired=sum(view.desired for view in views),
        ready=sum(view.ready for view in views),
        starting=sum(view.starting for view in views),
        draining=sum(view.draining for view in views),
        running=added([view.running for view in serving]),
        waiting=added([view.waiting for view in serving]),
        waiting_tokens=added([view.waiting_tokens for view in serving]),
        kv_tokens=added([view.kv_tokens for view in serving]),
        decode_share=added([view.decode_share for view in serving]),
    )


@dataclass(frozen=True)
class Observation:
    """A deployment at one moment."""

    traffic: Traffic = Traffic()
    pools: Mapping[str, PoolView] = field(default_factory=dict)
