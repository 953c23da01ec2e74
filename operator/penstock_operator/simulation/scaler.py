"""The real autoscaler in the simulation: samples become observations, decisions become sizes."""

from collections.abc import Sequence
from dataclasses import replace

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decisions
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.schedules import by_the_clock
from penstock_operator.scaling.signal import ABSENT, Signal
from penstock_operator.scaling.spec import ScalingSpec
from penstock_operator.scaling.state import ScalingState
from penstock_operator.simulation.setup import Sample


class Autoscaler:
    """Decides like the operator does, from what its metrics would say.

    Args:
        spec: what the user asked for.
        curve: of a replica of any pool.
        pools: names, in the order of the requests' way.
        begins: when the trace begins, in seconds since 1970; schedules go by it.
    """

    def __init__(
        self, spec: ScalingSpec, curve: ServiceCurve, *pools: str, begins: float = 0.0
    ) -> None:
        self._spec = spec
        self._begins = begins
        self._curve = curve
        self._pools = pools
        self._state = ScalingState()
        self._before: Sequence[Sample] = ()
        self._lengths: tuple[float, float] | None = None
        self.decisions: list[tuple[float, Decisions]] = []

    def __call__(self, sample: Sample) -> int:
        """Return the size to ask for, of the only pool."""
        return self.sizes([sample])[0]

    def sizes(self, samples: Sequence[Sample]) -> list[int]:
        """Return the size to ask for, of every pool."""
        before, self._before = self._before, samples
        if not before:
            return [sample.desired for sample in samples]
        seen = self._observe(before, samples)
        now = samples[0].time
        spec = by_the_clock(self._spec, self._begins + now, self._state.started)
        self._state, decisions = decide(self._state, seen, spec, now)
        self.decisions.append((now, decisions))
        return [decisions.pools[pool].replicas for pool in self._pools]

    def _observe(self, before: Sequence[Sample], samples: Sequence[Sample]) -> Observation:
        self._learn_lengths(before[-1], samples[-1])
        views = [self._view(*pair) for pair in zip(before, samples, strict=True)]
        # Whoever waits for a place after the first pool waits in the workers of the next one.
        views[1:] = [
            replace(view, waiting=Signal(sample.held - sample.running + sample.queued))
            for view, sample in zip(views[1:], samples[1:], strict=True)
        ]
        traffic = _with_lateness(self._traffic(before[0], samples[0]), before[-1], samples[-1])
        return Observation(traffic, dict(zip(self._pools, views, strict=True)))

    def _traffic(self, before: Sample, first: Sample) -> Traffic:
        seconds = first.time - before.time
        given, taken = self._lengths or (0.0, 0.0)
        return Traffic(
            arrivals=Signal((first.arrivals - before.arrivals) / seconds),
            uncached_tokens=Signal((first.arrived_tokens - before.arrived_tokens) / seconds),
            input_tokens=Signal(given) if self._lengths else ABSENT,
            output_tokens=Signal(taken) if self._lengths else ABSENT,
            queued_requests=Signal(first.queued),
            queued_tokens=Signal(first.queued_tokens),
        )

    def _view(self, before: Sample, sample: Sample) -> PoolView:
        decoded = self._curve.b_d * (sample.sequence_steps - before.sequence_steps)
        decoded += self._curve.c * (sample.context_steps - before.context_steps)
        return PoolView(
            desired=sample.desired,
            ready=sample.ready,
            starting=sample.starting,
            draining=sample.draining,
            running=Signal(sample.running),
            waiting=Signal(sample.held - sample.running),
            waiting_tokens=Signal(sample.prefill_backlog),
            kv_tokens=Signal(sample.kv_tokens),
            decode_share=Signal(decoded / (sample.time - before.time)),
            curve=self._curve,
        )

    def _learn_lengths(self, before: Sample, sample: Sample) -> None:
        """Mean lengths over the last few hundred requests, as a rate over minutes gives them."""
        ended = sample.completed - before.completed
        if not ended:
            return
        given = (sample.completed_input - before.completed_input) / ended
        taken = (sample.completed_output - before.completed_output) / ended
        if self._lengths is None:
            self._lengths = given, taken
            return
        share = min(1.0, ended / 500)
        old_given, old_taken = self._lengths
        self._lengths = (
            old_given + share * (given - old_given),
            old_taken + share * (taken - old_taken),
        )


def _with_lateness(traffic: Traffic, before: Sample, now: Sample) -> Traffic:
    """Return traffic with what the last pool's requests missed."""
    ended = now.completed - before.completed
    if not ended:
        return traffic
    return replace(
        traffic,
        late_share=Signal((now.late - before.late) / ended),
        late_ttft=Signal((now.late_ttft - before.late_ttft) / ended),
        late_tpot=Signal((now.late_tpot - before.late_tpot) / ended),
    )
