"""In which order waiting inputs are computed: those of many requests, one after another in turn.

A request brings one input or thousands. Were they computed as they came, one large import would
stop everybody else for minutes. Self-clocked fair queueing (Golestani, INFOCOM 1994) shares the
time by tokens: an input's tag is where its request's work would end if all requests with a priority
had the same share, and the smallest tag is next. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush


@dataclass
class Job:
    """A request and the inputs of it that wait."""

    id: str
    sizes: Sequence[int]
    """Tokens of each input."""
    priority: int = 0
    """Higher comes first."""
    deadline: float | None = None
    """Monotonic seconds at which it is given up."""
    arrived: float = 0.0
    """Monotonic seconds."""
    begun: float | None = None
    """When its first input was computed."""
    next: int = 0
    """Its first input that waits."""
    left: int = field(init=False)
    """Inputs that are not computed yet."""
    tag: float = 0.0
    """Of its next input."""

    def __post_init__(self) -> None:
        self.left = len(self.sizes)


class FairQueue:
    """Waiting inputs of all requests."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        """All that is not complete, by id."""
        self._heap: list[tuple[int, float, int, str]] = []
        self._clock = 0.0
        self._arrivals = 0

    def add(self, job: Job) -> None:
        """A request has come."""
        self.jobs[job.id] = job
        job.tag = self._clock + job.sizes[0]
        self._push(job)

    def complete(self, job: Job) -> None:
        """All of a request is computed."""
        self.jobs.pop(job.id, None)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget requests; what they have in the heap goes with them."""
        gone = [name for name in ids if self.jobs.pop(name, None) is not None]
        if gone:
            self._heap = [entry for entry in self._heap if entry[3] in self.jobs]
            heapify(self._heap)

    def take(self, most_tokens: int, most_inputs: int) -> list[tuple[Job, int]]:
        """Return the inputs that come next, as (request, index); at least one if any waits."""
        found: list[tuple[Job, int]] = []
        tokens = 0
        while self._heap and len(found) < most_inputs:
            job = self.jobs[self._heap[0][3]]
            size = job.sizes[job.next]
            if found and tokens + size > most_tokens:
                break
            heappop(self._heap)
            found.append((job, job.next))
            tokens += size
            self._clock = max(self._clock, job.tag)
            self._advance(job)
        return found

    def overdue(self, now: float) -> list[str]:
        """Return the requests whose deadline has passed."""
        return [
            job.id for job in self.jobs.values() if job.deadline is not None and job.deadline <= now
        ]

    @property
    def waiting(self) -> int:
        """Requests of which nothing is computed yet."""
        return sum(1 for job in self.jobs.values() if not job.next)

    def _advance(self, job: Job) -> None:
        job.next += 1
        if job.next < len(job.sizes):
            job.tag += job.sizes[job.next]
            self._push(job)

    def _push(self, job: Job) -> None:
        self._arrivals += 1
        heappush(self._heap, (-job.priority, job.tag, self._arrivals, job.id))
