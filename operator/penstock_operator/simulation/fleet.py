"""The simulated deployment: a gateway queue in front of replicas that start, drain and fail.

The gateway binds late: a request waits in one queue until a replica has room, then goes to the one
with the least to do. Everything that a scaler may see is in `Sample`; it is taken at fixed times
and handed on after the metric lag.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import inf

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.replica import Job, Replica
from penstock_operator.simulation.trace import Arrival


@dataclass(frozen=True)
class Setup:
    """What the simulated deployment is made of. Times are in seconds."""

    curve: ServiceCurve
    ttft: float = 2.0
    tpot: float = 0.1
    """Objectives, for each request."""
    cold_start: float = 60.0
    interval: float = 5.0
    """Between two samples, and two decisions."""
    metric_lag: float = 10.0
    """From a sample to the decision that sees it."""
    chunk_tokens: int = 1024
    max_sequences: int = 256
    min_replicas: int = 1
    max_replicas: int = 64


@dataclass(frozen=True)
class Sample:
    """What metrics say at one moment. Totals are counters since the start."""

    time: float
    desired: int
    ready: int
    starting: int
    draining: int
    arrivals: int
    arrived_tokens: int
    queued: int
    queued_tokens: int
    """Prompt tokens that wait at the gateway."""
    prefill_backlog: int
    """Prompt tokens that wait in replicas."""
    running: int
    """Sequences that decode."""
    held: int
    """Requests in replicas, prefilling ones included."""
    kv_tokens: int
    """KV tokens promised: a simulated replica keeps room for the whole of a request."""
    completed: int
    late: int
    """Completed outside their objectives."""
    completed_input: int
    completed_output: int
    steps: int
    busy_seconds: float
    prefill_tokens: int
    sequence_steps: int
    context_steps: float


@dataclass
class Outcome:
    """What a run did."""

    jobs: list[Job] = field(default_factory=list)
    replica_seconds: float = 0.0
    starts: int = 0
    samples: list[Sample] = field(default_factory=list)


Decide = Callable[[Sample], int]
"""From what is seen to the number of replicas wanted."""


class Fleet:
    """Runs one trace under one scaling policy."""

    def __init__(self, setup: Setup, replicas: int) -> None:
        self._setup = setup
        self._active: list[Replica] = []
        self._draining: list[Replica] = []
        self._starting: list[float] = []
        self._queue: deque[Job] = deque()
        self._queued_tokens = 0
        self._wakes: list[tuple[float, int, Replica]] = []
        self._serial = 0
        self._gone = Replica(setup.curve, setup.chunk_tokens, setup.max_sequences)
        self._desired = replicas
        self._since = 0.0
        self._counts = [0] * 6  # arrivals, their tokens, completed, their input, output, late
        self.outcome = Outcome(starts=replicas)
        for _ in range(replicas):
            self._active.append(self._new())

    def run(self, trace: Iterable[Arrival], decide: Decide) -> Outcome:
        """Play a trace to its last completion."""
        seen: deque[Sample] = deque()
        arrivals = iter(trace)
        arrival = next(arrivals, None)
        tick = 0.0
        now = 0.0
        while arrival is not None or self._queue or self._busy:
            arrives = arrival.time if arrival is not None else inf
            starts = self._starting[0] if self._starting else inf
            wakes = self._wakes[0][0] if self._wakes else inf
            now = min(arrives, starts, wakes, tick)
            if now == wakes:
                self._wake()
            elif now == arrives and arrival is not None:
                self._arrive(arrival)
                arrival = next(arrivals, None)
            elif now == starts:
                self._start(now)
            else:
                seen.append(self._sample(now))
                while seen and seen[0].time <= now - self._setup.metric_lag:
                    self._resize(self._inside(decide(self._present(seen.popleft()))), now)
                tick += self._setup.interval
        self._account(now)
        return self.outcome

    def _present(self, sample: Sample) -> Sample:
        """Metrics lag; sizes come from the API server and do not."""
        return replace(
            sample,
            desired=self._desired,
            ready=len(self._active),
            starting=len(self._starting),
            draining=len(self._draining),
        )

    def _inside(self, wanted: int) -> int:
        return min(max(wanted, self._setup.min_replicas), self._setup.max_replicas)

    @property
    def _busy(self) -> bool:
        return any(replica.jobs for replica in (*self._active, *self._draining))

    def _new(self) -> Replica:
        return Replica(self._setup.curve, self._setup.chunk_tokens, self._setup.max_sequences)

    def _arrive(self, arrival: Arrival) -> None:
        job = Job(arrival.time, arrival.input_tokens, arrival.output_tokens)
        self.outcome.jobs.append(job)
        self._counts[0] += 1
        self._counts[1] += job.input_tokens
        self._queue.append(job)
        self._queued_tokens += job.input_tokens
        self._dispatch(arrival.time)

    def _dispatch(self, now: float) -> None:
        while self._queue:
            job = self._queue[0]
            able = [replica for replica in self._active if replica.accepts(job)]
            if not able:
                return
            self._give(min(able, key=self._crowding), now)

    def _crowding(self, replica: Replica) -> float:
        curve = self._setup.curve
        return (
            curve.b_p * replica.prefill_backlog
            + curve.b_d * replica.sequences
            + curve.c * replica.context
        )

    def _give(self, replica: Replica, now: float) -> None:
        job = self._queue.popleft()
        self._queued_tokens -= job.input_tokens
        before = replica.wake
        replica.add(job, now)
        if replica.wake != before:
            self._watch(replica)

    def _watch(self, replica: Replica) -> None:
        if replica.wake < inf:
            self._serial += 1
            heapq.heappush(self._wakes, (replica.wake, self._serial, replica))

    def _wake(self) -> None:
        time, _, replica = heapq.heappop(self._wakes)
        if time != replica.wake:  # it was planned anew since
            return
        for job in replica.step():
            self._counts[2] += 1
            self._counts[3] += job.input_tokens
            self._counts[4] += job.output_tokens
            self._counts[5] += not job.inside(self._setup.ttft, self._setup.tpot)
        self._watch(replica)
        if self._queue:
            self._dispatch(time)
        if self._draining and not replica.jobs and replica in self._draining:
            self._account(time)
            self._draining.remove(replica)
            self._retire(replica)

    def _start(self, now: float) -> None:
        heapq.heappop(self._starting)
        self._active.append(self._new())
        self._dispatch(now)

    def _resize(self, wanted: int, now: float) -> None:
        self._account(now)
        self._desired = wanted
        have = len(self._active) + len(self._starting)
        while have < wanted and self._draining:  # un-drain before creating
            self._active.append(self._draining.pop())
            have += 1
        while have < wanted:
            heapq.heappush(self._starting, now + self._setup.cold_start)
            self.outcome.starts += 1
            have += 1
        while have > wanted and self._starting:  # cancel the youngest start first
            self._starting.remove(max(self._starting))
            heapq.heapify(self._starting)
            have -= 1
        while have > wanted and self._active:
            victim = min(self._active, key=self._crowding)
            self._active.remove(victim)
            if victim.jobs:
                self._draining.append(victim)
            else:
                self._retire(victim)
            have -= 1
        self._dispatch(now)

    def _retire(self, replica: Replica) -> None:
        """Counters of replicas that are gone live on, as rates over a deployment do."""
        for name in (
            "steps_taken", "busy_seconds", "prefill_tokens", "sequence_steps", "context_steps",
        ):  # fmt: skip
            setattr(self._gone, name, getattr(self._gone, name) + getattr(replica, name))

    def _account(self, now: float) -> None:
        paid = len(self._active) + len(self._draining) + len(self._starting)
        self.outcome.replica_seconds += paid * (now - self._since)
        self._since = now

    def _sample(self, now: float) -> Sample:
        living = [*self._active, *self._draining]
        ever = [*living, self._gone]
        sample = Sample(
            time=now,
            desired=self._desired,
            ready=len(self._active),
            starting=len(self._starting),
            draining=len(self._draining),
            arrivals=self._counts[0],
            arrived_tokens=self._counts[1],
            queued=len(self._queue),
            queued_tokens=self._queued_tokens,
            prefill_backlog=sum(r.prefill_backlog for r in living),
            running=sum(r.sequences for r in living),
            held=sum(r.jobs for r in living),
            kv_tokens=sum(r.reserved for r in living),
            completed=self._counts[2],
            late=self._counts[5],
            completed_input=self._counts[3],
            completed_output=self._counts[4],
            steps=sum(r.steps_taken for r in ever),
            busy_seconds=sum(r.busy_seconds for r in ever),
            prefill_tokens=sum(r.prefill_tokens for r in ever),
            sequence_steps=sum(r.sequence_steps for r in ever),
            context_steps=sum(r.context_steps for r in ever),
        )
        self.outcome.samples.append(sample)
        return sample
