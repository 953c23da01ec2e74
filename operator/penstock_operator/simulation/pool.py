"""A simulated pool: one queue in front of replicas that start, drain and go.

It binds late, as the gateway does: a request waits until a replica has nearly computed its prompts,
then goes to the one with the least to do; who can still be in time goes before who cannot. Without
an order it waits for room in a KV cache only, and goes in the order of coming.
"""

import heapq
from collections import deque
from math import inf

from penstock_contract.first_token import OLDEST_EVERY, backlog, latest_start, overdue
from penstock_operator.simulation.replica import Job, Replica
from penstock_operator.simulation.setup import Outcome, Sample, Setup


class Pool:
    """Replicas of one role. Times are in seconds of the simulation."""

    def __init__(self, setup: Setup, replicas: int) -> None:
        self._setup = setup
        self._active = [self._new() for _ in range(replicas)]
        self._draining: list[Replica] = []
        self._starting: list[float] = []
        self._queue: deque[Job] = deque()
        self._late: deque[Job] = deque()
        """Those that wait and cannot be in time any more."""
        self._turns = 0
        self._queued_tokens = 0
        self._wakes: list[tuple[float, int, Replica]] = []
        self._serial = 0
        self._gone = self._new()
        self._desired = replicas
        self._since = 0.0
        self._arrivals = self._arrived_tokens = 0
        self._completed = self._completed_input = self._completed_output = 0
        self._ended_late = self._late_ttft = self._late_tpot = 0
        self.outcome = Outcome(starts=replicas)

    @property
    def busy(self) -> bool:
        """Whether a request waits or is held."""
        replicas = (*self._active, *self._draining)
        return bool(self._queue or self._late) or any(replica.jobs for replica in replicas)

    @property
    def next_wake(self) -> float:
        """When the next run of steps ends."""
        return self._wakes[0][0] if self._wakes else inf

    @property
    def next_start(self) -> float:
        """When the next replica serves."""
        return self._starting[0] if self._starting else inf

    def offer(self, job: Job, now: float) -> None:
        """Take a request in."""
        self.outcome.jobs.append(job)
        self._arrivals += 1
        self._arrived_tokens += job.input_tokens
        self._queue.append(job)
        self._queued_tokens += job.input_tokens
        self._dispatch(now)

    def wake(self) -> list[Job]:
        """End the next run of steps; return the requests that finished with it."""
        time, _, replica = heapq.heappop(self._wakes)
        if time != replica.wake:  # it was planned anew since
            return []
        done, setup = replica.step(), self._setup
        for job in done:
            self._completed += 1
            self._completed_input += job.input_tokens
            self._completed_output += job.output_tokens
            late_first, late_after = job.late_first(setup.ttft), job.late_after(setup.tpot)
            self._late_ttft += late_first
            self._late_tpot += late_after
            self._ended_late += late_first or late_after
        self._watch(replica)
        if self._queue or self._late:
            self._dispatch(time)
        if self._draining and not replica.jobs and replica in self._draining:
            self.account(time)
            self._draining.remove(replica)
            self._retire(replica)
        return done

    def start(self) -> None:
        """Let the next replica serve."""
        now = heapq.heappop(self._starting)
        self._active.append(self._new())
        self._dispatch(now)

    def resize(self, wanted: int, now: float) -> None:
        """Ask for so many replicas, inside the pool's bounds."""
        self.account(now)
        wanted = min(max(wanted, self._setup.min_replicas), self._setup.max_replicas)
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
            self._drain(min(self._active, key=self._crowding))
            have -= 1
        self._dispatch(now)

    def account(self, now: float) -> None:
        """Pay for the replicas up to now, those that start or drain included."""
        paid = len(self._active) + len(self._draining) + len(self._starting)
        self.outcome.replica_seconds += paid * (now - self._since)
        self._since = now

    def sizes(self) -> dict[str, int]:
        """Return what a `Sample` says of the pool's size, which comes from the API server."""
        return {
            "desired": self._desired,
            "ready": len(self._active),
            "starting": len(self._starting),
            "draining": len(self._draining),
        }

    def sample(self, now: float) -> Sample:
        """Return, and keep, what metrics say."""
        living = [*self._active, *self._draining]
        ever = [*living, self._gone]
        sample = Sample(
            time=now,
            **self.sizes(),
            arrivals=self._arrivals,
            arrived_tokens=self._arrived_tokens,
            queued=len(self._queue) + len(self._late),
            queued_tokens=self._queued_tokens,
            prefill_backlog=sum(r.prefill_backlog for r in living),
            running=sum(r.sequences for r in living),
            held=sum(r.jobs for r in living),
            kv_tokens=sum(r.reserved for r in living),
            completed=self._completed,
            late=self._ended_late,
            late_ttft=self._late_ttft,
            late_tpot=self._late_tpot,
            completed_input=self._completed_input,
            completed_output=self._completed_output,
            steps=sum(r.steps_taken for r in ever),
            busy_seconds=sum(r.busy_seconds for r in ever),
            prefill_tokens=sum(r.prefill_tokens for r in ever),
            sequence_steps=sum(r.sequence_steps for r in ever),
            context_steps=sum(r.context_steps for r in ever),
        )
        self.outcome.samples.append(sample)
        return sample

    def _new(self) -> Replica:
        setup = self._setup
        longest = setup.tpot if setup.stall_free else inf
        ahead = backlog(setup.ttft) if setup.in_order else inf
        return Replica(setup.curve, setup.chunk_tokens, setup.max_sequences, longest, ahead)

    def _dispatch(self, now: float) -> None:
        while self._queue or self._late:
            queue = self._next_in(now)
            able = [replica for replica in self._active if replica.accepts(queue[0])]
            if not able:
                return
            self._turns += 1
            self._give(queue.popleft(), min(able, key=self._crowding), now)

    def _next_in(self, now: float) -> deque[Job]:
        """Return the queue whose turn it is; see contract's `first_token`."""
        if not self._setup.in_order:
            return self._queue
        while self._queue and self._latest(self._queue[0]) < now:
            self._late.append(self._queue.popleft())
        if not self._late or not self._queue:
            return self._queue or self._late
        oldest = self._turns % OLDEST_EVERY == OLDEST_EVERY - 1
        late = oldest or overdue(self._late[0].arrival, self._setup.patience) <= now
        return self._late if late else self._queue

    def _latest(self, job: Job) -> float:
        own = self._setup.curve.b_p * (job.input_tokens - job.computed)
        return latest_start(job.arrival, self._setup.ttft, own)

    def _crowding(self, replica: Replica) -> float:
        curve = self._setup.curve
        return (
            curve.b_p * replica.prefill_backlog
            + curve.b_d * replica.sequences
            + curve.c * replica.context
        )

    def _give(self, job: Job, replica: Replica, now: float) -> None:
        self._queued_tokens -= job.input_tokens
        before = replica.wake
        replica.add(job, now)
        if replica.wake != before:
            self._watch(replica)

    def _watch(self, replica: Replica) -> None:
        if replica.wake < inf:
            self._serial += 1
            heapq.heappush(self._wakes, (replica.wake, self._serial, replica))

    def _drain(self, victim: Replica) -> None:
        self._active.remove(victim)
        if victim.jobs:
            self._draining.append(victim)
        else:
            self._retire(victim)

    def _retire(self, replica: Replica) -> None:
        """Counters of replicas that are gone live on, as rates over a deployment do."""
        for name in (
            "steps_taken", "busy_seconds", "prefill_tokens", "sequence_steps", "context_steps",
        ):  # fmt: skip
            setattr(self._gone, name, getattr(self._gone, name) + getattr(replica, name))
