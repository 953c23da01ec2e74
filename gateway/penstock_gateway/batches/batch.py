"""A batch, its life, and how OpenAI's API shows it. Pure."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

Json = dict[str, Any]


class Status(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


NEXT: Final = {
    Status.VALIDATING: {Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING},
    Status.IN_PROGRESS: {Status.FINALIZING, Status.CANCELLING},
    Status.FINALIZING: {Status.COMPLETED, Status.EXPIRED},
    Status.CANCELLING: {Status.CANCELLED},
}
"""What may follow what; nothing follows the others."""
ACTIVE: Final = tuple(NEXT)
ENDED: Final = tuple(status for status in Status if status not in NEXT)

_TIMES: Final = (
    Status.IN_PROGRESS, Status.FINALIZING, Status.COMPLETED, Status.FAILED, Status.EXPIRED,
    Status.CANCELLING, Status.CANCELLED,
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with an input file."""

    code: str
    message: str
    line: int | None = None
    """Counted from 1."""
    param: str | None = None

    def to_json(self) -> Json:
        """Return it as the API shows it."""
        found = {"code": self.code, "message": self.message}
        return {**found, "param": self.param, "line": self.line}


@dataclass(frozen=True)
class Counts:
    """Requests of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Batch:
    """One batch. Times are seconds since 1970."""

    id: str
    tenant: str
    endpoint: str
    input_file: str
    window: str
    """As the client wrote it, like `24h`."""
    created: int
    expires: int
    metadata: dict[str, str] | None = None
    output_expires_after: int | None = None
    """Seconds that its output files are kept."""
    status: Status = Status.VALIDATING
    times: dict[str, int] = field(default_factory=dict)
    """When it came to each status."""
    problems: tuple[Problem, ...] = ()
    counts: Counts = Counts()
    output_file: str | None = None
    error_file: str | None = None

    def moved(self, status: Status, now: float, **changes: Any) -> "Batch":
        """Return it in its next status.

        Raises:
            ValueError: that status does not follow.
        """
        if status not in NEXT.get(self.status, ()):
            raise ValueError(f"a batch that is {self.status} cannot become {status}")
        return replace(self, status=status, times={**self.times, status: int(now)}, **changes)

    @property
    def ending(self) -> Status:
        """What it becomes when its files are written: too late is known by then."""
        if self.status is Status.CANCELLING:
            return Status.CANCELLED
        done = self.counts.completed + self.counts.failed
        return Status.COMPLETED if done == self.counts.total else Status.EXPIRED

    def to_json(self) -> Json:
        """Return it as the API shows it."""
        problems = {"object": "list", "data": [problem.to_json() for problem in self.problems]}
        counts = self.counts
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": problems if self.problems else None,
            "input_file_id": self.input_file,
            "completion_window": self.window,
            "status": self.status.value,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created,
            "expires_at": self.expires,
            **{f"{status}_at": self.times.get(status) for status in _TIMES},
            "request_counts": {
                "total": counts.total,
                "completed": counts.completed,
                "failed": counts.failed,
            },
            "metadata": self.metadata,
        }
