"""The real autoscaler in the simulation: samples become observations, decisions become sizes."""

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.decide import decide
from penstock_operator.scaling.decision import Decisions
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.signal import ABSENT, Signal
from penstock_operator.scaling.spec import ScalingSpec
from penstock_operator.scaling.state import ScalingState
from penstock_operator.simulation.fleet import Sample


class Autoscaler:
    """Decides like the operator does, from what its metrics would say."""

    def __init__(self, spec: ScalingSpec, curve: ServiceCurve, pool: str) -> None:
        self._spec = spec
        self._curve = curve
        self._pool = pool
        self._state = ScalingState()
        self._before: Sample | None = None
        self._lengths: tuple[float, float] | None = None
        self.decisions: list[tuple[float, Decisions]] = []

    def __call__(self, sample: Sample) -> int:
        """Return the size to ask for."""
        before, self._before = self._before, sample
        if before is None:
            return sample.desired
        seen = self._observe(before, sample)
        self._state, decisions = decide(self._state, seen, self._spec, sample.time)
        self.decisions.append((sample.time, decisions))
        return decisions.pools[self._pool].replicas

    def _observe(self, before: Sample, sample: Sample) -> Observation:
        seconds = sample.time - before.time
        self._learn_lengths(before, sample)
        given, taken = self._lengths or (0.0, 0.0)
        ended = sample.completed - before.completed
        traffic = Traffic(
            late_share=Signal((sample.late - before.late) / ended) if ended else ABSENT,
            arrivals=Signal((sample.arrivals - before.arrivals) / seconds),
            uncached_tokens=Signal((sample.arrived_tokens - before.arrived_tokens) / seconds),
            input_tokens=Signal(given) if self._lengths else ABSENT,
            output_tokens=Signal(taken) if self._lengths else ABSENT,
            queued_requests=Signal(sample.queued),
            queued_tokens=Signal(sample.queued_tokens),
        )
        decoded = self._curve.b_d * (sample.sequence_steps - before.sequence_steps)
        decoded += self._curve.c * (sample.context_steps - before.context_steps)
        view = PoolView(
            desired=sample.desired,
            ready=sample.ready,
            starting=sample.starting,
            draining=sample.draining,
            running=Signal(sample.running),
            waiting=Signal(sample.held - sample.running),
            waiting_tokens=Signal(sample.prefill_backlog),
            kv_tokens=Signal(sample.kv_tokens),
            decode_share=Signal(decoded / seconds),
            curve=self._curve,
        )
        return Observation(traffic, {self._pool: view})

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
