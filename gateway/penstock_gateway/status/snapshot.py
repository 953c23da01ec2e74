"""What the status page tells, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelRow:
    """A served model."""

    name: str
    aliases: tuple[str, ...]
    deployment: str
    ready: int
    """Workers that take requests."""
    workers: int
    in_flight: int
    waiting: int
    prefix_hits: float | None
    """Share of prompt tokens expected to be cached, over the last decisions; None without any."""
    canary: str
    """The revision on trial with its share, or nothing."""


@dataclass(frozen=True)
class PoolRow:
    """A pool of workers."""

    deployment: str
    name: str
    role: str
    ready: int
    workers: int
    in_flight: int


@dataclass(frozen=True)
class QueueRow:
    """Requests of one class, and one tenant if there are any, that wait for a model."""

    model: str
    share: str
    """Class, or class/tenant."""
    priority: int
    waiting: int


@dataclass(frozen=True)
class WaitRow:
    """Requests that wait for the same workers of a model."""

    model: str
    workers: str
    """Which ones."""
    waiting: int
    reason: str
    seconds: float | None
    """About how long until the next one goes; None: nobody knows."""


@dataclass(frozen=True)
class WorkerRow:
    """A worker, as this gateway sees it."""

    id: str
    deployment: str
    pool: str
    role: str
    revision: str
    state: str
    in_flight: int
    outstanding: int
    """Prompt tokens without a first token yet."""
    requests: int
    failures: int
    prompt_token: float = 0.0
    """Seconds; 0: not known."""
    prompt_error: float = 0.0
    """Standard error of that; 0 where the worker told."""


@dataclass(frozen=True)
class DecisionRow:
    """A request was given to a worker."""

    seconds_ago: float
    request: str
    model: str
    worker: str
    attempt: int
    matched: int
    """Prompt tokens expected to be cached there."""
    uncached: int
    ttft: float
    """Predicted seconds to the first token."""
    reason: str


@dataclass(frozen=True)
class Status:
    """All of it."""

    version: str
    generation: int
    """Of the fleet; 0 while it is not known."""
    tenants: int | None
    """None: open mode."""
    silent: int = 0
    """Processes of the gateway that did not tell what they have."""
    models: tuple[ModelRow, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    queues: tuple[QueueRow, ...] = ()
    waits: tuple[WaitRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()
