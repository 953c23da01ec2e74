"""One simulated replica: continuous batching with the linear step time of its service curve.

Between two events the batch is constant apart from its context, which grows by one token per
sequence and step; so k steps take k·T + g·k(k−1)/2 seconds (g = c·sequences) and are simulated as
one. An arrival ends such a run at the step in progress, as in an engine.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from math import ceil, inf, sqrt

from penstock_contract.first_token import FEWEST_PROMPTS
from penstock_contract.step_cost import StepCost
from penstock_operator.scaling.curve import ServiceCurve


@dataclass(slots=True)
class Job:
    """A request on its way. Times are in seconds of the simulation."""

    arrival: float
    input_tokens: int
    output_tokens: int
    first_token: float = -1.0
    finish: float = -1.0
    computed: int = 0
    """Prompt tokens computed, here or before it came here."""
    then: "Job | None" = None
    """What becomes of it when it ends in this pool: the prompt of a request that goes on."""

    @property
    def reserved(self) -> int:
        """KV tokens at the end of the request; room is kept for all of them."""
        return self.input_tokens + self.output_tokens

    def inside(self, ttft: float, tpot: float) -> bool:
        """Whether the request met its objectives, in seconds."""
        return not self.late_first(ttft) and not self.late_after(tpot)

    def late_first(self, ttft: float) -> bool:
        """Whether the first token missed its objective, in seconds."""
        return self.first_token - self.arrival > ttft

    def late_after(self, tpot: float) -> bool:
        """Whether the tokens after it did, on average."""
        return self.finish - self.first_token > tpot * (self.output_tokens - 1)


class Replica:
    """A worker that prefills in chunks and decodes everything it holds, a token per step.

    Args:
        curve: of its steps.
        chunk_tokens: token budget of a step.
        max_sequences: requests held at once.
        longest_step: seconds that bound the prompt tokens of a step in which something decodes.
        backlog: seconds of prompts that it is given ahead.
    """

    def __init__(
        self,
        curve: ServiceCurve,
        chunk_tokens: int,
        max_sequences: int,
        longest_step: float = inf,
        backlog: float = inf,
    ) -> None:
        self._curve = curve
        self._cost = StepCost(curve.a, curve.b_p, curve.b_d, curve.c)
        self._longest = longest_step
        self._backlog = backlog
        self._chunk = chunk_tokens
        self._max_sequences = max_sequences
        self._prefilling: deque[Job] = deque()
        self._finishing: list[tuple[int, int, Job]] = []
        self._steps = 0
        self._serial = 0
        self._began = 0.0
        """When the present run of steps began."""
        self._planned = 0
        self._chunked = 0
        """Prompt tokens of the present step; zero in a run of pure decoding."""
        self._base = 0.0
        self._growth = 0.0
        self.wake = inf
        """When the present run of steps ends."""
        self.context = 0
        """KV tokens written."""
        self.reserved = 0
        """KV tokens promised."""
        self.prefill_backlog = 0
        """Prompt tokens not computed yet."""
        self.busy_seconds = 0.0
        self.steps_taken = 0
        self.prefill_tokens = 0
        self.sequence_steps = 0
        self.context_steps = 0.0

    @property
    def sequences(self) -> int:
        """Requests that decode."""
        return len(self._finishing)

    @property
    def jobs(self) -> int:
        """Requests held."""
        return len(self._finishing) + len(self._prefilling)

    @property
    def held(self) -> list[Job]:
        """The requests held, for when the replica dies."""
        return [*self._prefilling, *(job for _, _, job in self._finishing)]

    def accepts(self, job: Job) -> bool:
        """Whether the request fits now: KV room, a sequence slot, few prompts before it."""
        return (
            (
                len(self._prefilling) < FEWEST_PROMPTS
                or self._curve.b_p * self.prefill_backlog < self._backlog
            )
            and self.reserved + job.reserved <= self._curve.kv_tokens
            and self.jobs < self._max_sequences
        )

    def add(self, job: Job, now: float) -> None:
        """Take a request; it joins at the end of the step in progress."""
        self._prefilling.append(job)
        self.prefill_backlog += job.input_tokens - job.computed
        self.context += job.computed
        self.reserved += job.reserved
        if self.wake == inf:
            self._plan(now)
        elif not self._chunked and self._planned > 1:
            self._cut(now)

    def step(self) -> list[Job]:
        """End the present run of steps, begin the next; return the requests that finished."""
        now, count, sequences = self.wake, self._planned, len(self._finishing)
        self.busy_seconds += now - self._began
        self.steps_taken += count
        self.sequence_steps += count * sequences
        self.context_steps += count * self.context + sequences * count * (count - 1) / 2
        self._steps += count
        self.context += count * sequences
        done: list[Job] = []
        while self._finishing and self._finishing[0][0] <= self._steps:
            job = heapq.heappop(self._finishing)[2]
            self._leave(job, now)
            done.append(job)
        if self._chunked:
            self._prefilled(now, done)
        self._plan(now)
        return done

    def _prefilled(self, now: float, done: list[Job]) -> None:
        left = self._chunked
        self.prefill_tokens += left
        self.prefill_backlog -= left
        self.context += left
        while left:
            job = self._prefilling[0]
            part = min(left, job.input_tokens - job.computed)
            job.computed += part
            left -= part
            if job.computed < job.input_tokens:
                break
            self._prefilling.popleft()
            job.first_token = now
            if job.output_tokens <= 1:
                self._leave(job, now)
                done.append(job)
            else:
                self._serial += 1
                end = self._steps + job.output_tokens - 1
                heapq.heappush(self._finishing, (end, self._serial, job))

    def _leave(self, job: Job, now: float) -> None:
        job.finish = now
        self.context -= job.input_tokens + job.output_tokens - 1
        self.reserved -= job.reserved

    def _plan(self, now: float) -> None:
        """Choose the next run: one step with a chunk of prompts, or decoding until one ends."""
        curve, sequences = self._curve, len(self._finishing)
        self._began = now
        backlog = self.prefill_backlog
        self._chunked = min(backlog, self._room(sequences)) if backlog else 0
        self._base = curve.step_seconds(self._chunked, sequences, self.context)
        self._growth = curve.c * sequences
        if self._chunked:
            self._planned = 1
        elif sequences:
            self._planned = self._finishing[0][0] - self._steps
        else:
            self._planned = 0
            self.wake = inf
            return
        self.wake = now + self._elapsed(self._planned)

    def _room(self, sequences: int) -> int:
        """Return the prompt tokens that the next step may compute."""
        room = max(1, self._chunk - sequences)
        if not sequences or self._longest == inf:
            return room
        bound = self._cost.prefill_within(self._longest, sequences, self.context)
        return int(min(room, max(1.0, bound)))

    def _cut(self, now: float) -> None:
        """End the run of decoding steps with the one in progress."""
        passed = now - self._began
        half = self._growth / 2
        if half > 0:
            linear = self._base - half
            steps = (sqrt(linear * linear + 4 * half * passed) - linear) / (2 * half)
        else:
            steps = passed / self._base
        self._planned = min(self._planned, max(1, ceil(steps)))
        self.wake = self._began + self._elapsed(self._planned)

    def _elapsed(self, steps: int) -> float:
        return steps * self._base + self._growth * steps * (steps - 1) / 2
