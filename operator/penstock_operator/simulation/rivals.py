"""What people scale by today, for comparison: Kubernetes' HPA, Knative's KPA, a fixed number.

Each follows the published algorithm of its project, fed with the requests in flight (held by
replicas or queued at the gateway), which is what both are pointed at for inference.
"""

from collections import deque
from dataclasses import dataclass, field
from math import ceil

from penstock_operator.simulation.setup import Sample


@dataclass
class Fixed:
    """Always as many."""

    replicas: int

    def __call__(self, _: Sample) -> int:
        """Return the size to ask for."""
        return self.replicas


def _in_flight(sample: Sample) -> int:
    return sample.held + sample.queued


@dataclass
class Hpa:
    """Horizontal Pod Autoscaler, v2 defaults, on a Pods metric.

    Per sync (15 s): desired = ceil(ready · average / target), left alone within the tolerance;
    replicas that are not ready count as idle when growing; at most twice the size or four more per
    sync; the largest answer of the last five minutes counts for shrinking.
    """

    target: float
    tolerance: float = 0.1
    period: float = 15.0
    stabilization: float = 300.0
    _next: float = 0.0
    _answers: deque[tuple[float, int]] = field(default_factory=deque)

    def __call__(self, sample: Sample) -> int:
        """Return the size to ask for."""
        if sample.time < self._next:
            return sample.desired
        self._next = sample.time + self.period
        if not self._answers:  # as the controller does: nothing shrinks for a first window
            self._answers.append((sample.time, sample.desired))
        wanted = self._wanted(sample)
        self._answers.append((sample.time, wanted))
        while self._answers[0][0] < sample.time - self.stabilization:
            self._answers.popleft()
        most = max(sample.desired * 2, sample.desired + 4)
        if wanted >= sample.desired:
            return min(wanted, most)
        return min(sample.desired, max(answer for _, answer in self._answers))

    def _wanted(self, sample: Sample) -> int:
        ready = max(1, sample.ready)
        ratio = _in_flight(sample) / ready / self.target
        if abs(ratio - 1) <= self.tolerance:
            return sample.desired
        unready = sample.desired - sample.ready
        if unready <= 0:
            return max(1, ceil(ratio * ready))
        everyone = ready + unready
        if ratio > 1:  # those still starting are taken for idle
            damped = _in_flight(sample) / everyone / self.target
            return sample.desired if damped <= 1 + self.tolerance else ceil(damped * everyone)
        return max(1, ceil(ratio * ready))


@dataclass
class Kpa:
    """Knative Pod Autoscaler: concurrency over a stable window of 60 s and a panic window of 6 s.

    Panics when the panic window alone asks for twice the ready replicas; while it does, and for one
    stable window after, nothing shrinks.
    """

    target: float
    stable: float = 60.0
    panic: float = 6.0
    threshold: float = 2.0
    shrink_rate: float = 2.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _panicked: float | None = None
    _began: float | None = None
    _most: int = 0

    def __call__(self, sample: Sample) -> int:
        """Return the size to ask for."""
        now = sample.time
        self._seen.append((now, _in_flight(sample)))
        while self._seen[0][0] < now - self.stable:
            self._seen.popleft()
        self._began = now if self._began is None else self._began
        ready = max(1, sample.ready)
        stable = self._wanted(now - self.stable)
        panic = self._wanted(now - self.panic)
        if panic >= self.threshold * ready:
            self._panicked = now
        if self._panicked is not None and now - self._panicked <= self.stable:
            self._most = max(self._most, panic, sample.desired)
            return self._most
        self._panicked, self._most = None, 0
        if now - self._began < self.stable:  # the window is not full yet
            return max(stable, sample.desired)
        return max(1, stable, ceil(ready / self.shrink_rate) if stable < ready else 0)

    def _wanted(self, since: float) -> int:
        values = [value for time, value in self._seen if time >= since]
        return ceil(sum(values) / len(values) / self.target)
