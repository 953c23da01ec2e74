"""A pool in its rollout, and the next step of it, as plain values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from penstock_contract.api.inference import Canary


class Phase(StrEnum):
    """What is going on with a pool's revisions."""

    STABLE = "Stable"
    """All workers run the target revision."""
    UPDATING = "Updating"
    CANARY = "Canary"
    ROLLING_BACK = "RollingBack"
    """The wanted revision has failed, and some of its workers are left."""
    ROLLED_BACK = "RolledBack"


@dataclass(frozen=True)
class Worker:
    """One pod of a pool that is not being deleted."""

    id: str
    revision: str
    ready: bool
    draining: bool = False
    confirmed: bool = False
    """Every gateway has said that it sends it nothing new, or does not know it at all."""
    outstanding: float = 0.0
    """What it still has to do, in tokens."""
    age: float = 0.0
    failing: str = ""
    """How it keeps ending; empty: it does not."""
    loading: float | None = None
    """Seconds for which it has had its place and its model and is not ready; None: it has not, or
    it is."""

    @property
    def removable(self) -> bool:
        """Whether it can go without any request noticing; to be unready is not enough for that."""
        return self.draining and self.confirmed


@dataclass(frozen=True)
class RolloutState:
    """A pool at one moment. Times are in seconds of one clock."""

    replicas: int
    wanted: str
    """Revision that the spec asks for."""
    stable: str = ""
    """Revision that was complete last; empty: none was yet."""
    rejected: str = ""
    """Revision that failed and stays out."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Replicas that the Deployment of each revision asks for."""
    workers: tuple[Worker, ...] = ()
    max_surge: int = 1
    max_unavailable: int = 0
    canary: Canary | None = None
    pause: float = 300.0
    """How long a canary is watched."""
    canary_since: float | None = None
    """When the canary was ready; None: it is not yet."""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Requests ended and failed, by revision."""
    progress_deadline: float = 1800.0
    """Seconds that a worker of the wanted revision may be loading; how many come one after the
    other, and how long a canary is watched, is no fault of the revision."""
    now: float = 0.0


@dataclass(frozen=True)
class Advance:
    """The next step."""

    sizes: Mapping[str, int]
    """For every revision that has or needs a Deployment; zero with no worker left: remove it."""
    drain: tuple[str, ...]
    undrain: tuple[str, ...]
    rejected: str
    phase: Phase
    reason: str
    """For people; empty while nothing is going on."""
    canary_weight: int = 0
    canary_since: float | None = None
    again_in: float | None = None
    """Seconds after which time alone changes the answer."""


def staying(at: RolloutState, revision: str) -> list[Worker]:
    """Return the workers of a revision that do not drain."""
    return [w for w in at.workers if w.revision == revision and not w.draining]


def emptiest(worker: Worker) -> tuple[bool, float, float, str]:
    """Return a key by which who has the least to do comes first."""
    return (worker.ready, worker.outstanding, worker.age, worker.id)
