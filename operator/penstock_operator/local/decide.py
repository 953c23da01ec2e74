"""Which processes to start, drain and end: the policy of the local runtime, and nothing else.

Pure: wanted pools, observed processes and the time go in, actions with their reasons come out. A
process leaves in three steps, so that no request is lost: it is *drained* (the gateway sends it
nothing new), after a moment *terminated* (SIGTERM: it finishes what it has and exits), and *killed*
only when its drain timeout has long passed.

A pool never has more than `replicas + max_surge` processes that are not draining, and a rollout
never takes the ready ones below `replicas - max_unavailable`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from penstock_operator.local.backoff import Backoff

KILL_GRACE = 5.0
"""Seconds past its drain timeout that a process gets to exit by itself."""
START_DEADLINE = 600.0
"""Seconds after which a process that never became ready is replaced."""
SILENCE_DEADLINE = 60.0
"""Seconds without a healthy answer after which a process counts as hung."""


@dataclass(frozen=True, order=True)
class PoolKey:
    """Names a pool; deployment and pool are DNS labels."""

    deployment: str
    pool: str

    def __str__(self) -> str:
        return f"{self.deployment}/{self.pool}"


class Phase(StrEnum):
    """Where a process is in its life; dead ones are not listed."""

    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    """Gets nothing new."""
    TERMINATING = "Terminating"
    """Was told to exit."""


@dataclass(frozen=True)
class Wanted:
    """The desired state of a pool. Times are in seconds."""

    key: PoolKey
    replicas: int
    revision: str
    """Processes of another revision are replaced."""
    max_surge: int = 1
    max_unavailable: int = 0
    drain_timeout: float = 120.0
    settle: float = 0.5
    """Time between draining and SIGTERM, in which the gateway surely hears of it."""


GATEWAY: Final = Wanted(key=PoolKey("", "gateway"), replicas=1, revision="", settle=0)
BATCHES: Final = Wanted(
    key=PoolKey("", "batches"), replicas=1, revision="", drain_timeout=10, settle=0
)
"""The processes that belong to no deployment."""


@dataclass(frozen=True)
class Process:
    """What was observed of a living process. Times are in seconds of one monotonic clock."""

    id: str
    key: PoolKey
    revision: str
    phase: Phase
    started: float
    phase_since: float
    """When it entered its phase."""
    last_healthy: float
    """When it last answered that it is well; its start, before the first answer."""
    drain_timeout: float = 120.0
    settle: float = 0.5

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.phase in (Phase.DRAINING, Phase.TERMINATING)


@dataclass(frozen=True)
class Start:
    """Start one more process of a pool."""

    key: PoolKey
    reason: str


@dataclass(frozen=True)
class Drain:
    """Send it nothing new."""

    id: str
    reason: str


@dataclass(frozen=True)
class Terminate:
    """Tell a drained process to finish and exit (SIGTERM)."""

    id: str
    reason: str


@dataclass(frozen=True)
class Kill:
    """End a process that does not go by itself (SIGKILL)."""

    id: str
    reason: str


Action = Start | Drain | Terminate | Kill


def decide(
    wanted: Iterable[Wanted],
    processes: Iterable[Process],
    backoffs: Mapping[PoolKey, Backoff],
    now: float,
) -> list[Action]:
    """Return what to do now so that the processes come closer to what is wanted.

    Deciding again from the state that the actions lead to is safe at any time; when the list is
    empty and nothing is leaving, the pools are as wanted.
    """
    observed = list(processes)
    actions: list[Action] = []
    pools = {pool.key: pool for pool in wanted}
    for process in observed:
        actions += _leave(process, now) if process.leaving else _stuck(process, now)
    for key in sorted({*pools, *(process.key for process in observed)}):
        staying = [p for p in observed if p.key == key and not p.leaving]
        if pool := pools.get(key):
            actions += _resize(pool, staying, backoffs.get(key, Backoff()), now)
        else:
            actions += [Drain(p.id, "no longer wanted") for p in staying]
    return actions


def _leave(process: Process, now: float) -> list[Action]:
    """Return the next step of a process that is on its way out."""
    waited = now - process.phase_since
    if process.phase is Phase.DRAINING:
        if waited >= process.settle:
            return [Terminate(process.id, "drained: the gateway sends it nothing new")]
    elif waited >= process.drain_timeout + KILL_GRACE:
        return [Kill(process.id, f"still running {waited:.0f} s after SIGTERM")]
    return []


def _stuck(process: Process, now: float) -> list[Action]:
    """Return the end of a process that lives but does not serve."""
    if process.phase is Phase.STARTING and now - process.started >= START_DEADLINE:
        return [Kill(process.id, f"not ready after {START_DEADLINE:.0f} s")]
    silent = now - process.last_healthy
    if process.phase is Phase.READY and silent >= SILENCE_DEADLINE:
        return [Kill(process.id, f"no healthy answer for {silent:.0f} s")]
    return []


def _resize(pool: Wanted, staying: list[Process], backoff: Backoff, now: float) -> list[Action]:
    """Return starts and drains that bring one pool to its size and revision."""
    current = [p for p in staying if p.revision == pool.revision]
    old = [p for p in staying if p.revision != pool.revision]
    room = pool.replicas + (pool.max_surge if old else 0) - len(staying)
    missing = min(pool.replicas - len(current), room)
    if missing > 0 and now >= backoff.retry_at:
        why = f"{len(current)} of {pool.replicas} run" + (f" {pool.revision}" if old else "")
        return [*_retire(pool, current, old), *([Start(pool.key, why)] * missing)]
    return _retire(pool, current, old)


def _retire(pool: Wanted, current: list[Process], old: list[Process]) -> list[Action]:
    """Return drains: surplus of the wanted revision, and old ones that can be spared."""
    surplus = len(current) - pool.replicas
    drained = sorted(current, key=_cheapest_first)[: max(0, surplus)]
    actions: list[Action] = [Drain(p.id, f"scaled to {pool.replicas}") for p in drained]
    ready = sum(p.phase is Phase.READY for p in [*current, *old] if p not in drained)
    needed = pool.replicas - pool.max_unavailable
    for process in sorted(old, key=_cheapest_first):
        if process.phase is Phase.READY:
            if ready <= max(0, needed):
                break
            ready -= 1
        actions.append(Drain(process.id, f"replaced by revision {pool.revision}"))
    return actions


def _cheapest_first(process: Process) -> tuple[bool, float, str]:
    """Order victims: those that serve nothing yet, then the youngest, whose cache is coldest."""
    return (process.phase is Phase.READY, -process.started, process.id)
