"""Moving a pool's workers from one revision to another, one safe step at a time. Pure.

Every revision of a pool is a Deployment of its own (see `manifests.workload`); this file decides
their sizes. It may be asked at any moment, in any state, and answers with the next step; when the
answer changes nothing, the pool is as wanted.

A worker leaves in three steps, so that no request is lost: it is *drained* (marked, so that every
gateway sends it nothing new), the gateways *confirm*, and only then does its Deployment shrink by
one. Drained workers are unready and cheapest to delete, so a ReplicaSet takes those.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

from penstock_contract.api.inference import Canary
from penstock_operator.error_budget import over_budget


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
    unschedulable: bool = False

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
    updating_since: float | None = None
    """When the Deployment of the wanted revision was made."""
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


def advance(at: RolloutState) -> Advance:
    """Return the next step towards `at.replicas` workers of the right revision."""
    rejected = at.rejected if at.rejected == at.wanted else ""
    why = "" if rejected else failure(at)
    rejected = at.wanted if why else rejected
    target = at.stable if rejected and at.stable in at.sizes else at.wanted
    if target == rejected:  # nothing to go back to: better a failing revision than none
        rejected, why = "", ""
    trial = _trial(at, target)
    limit = trial.workers if trial.weight else at.replicas
    undrain, drain = _moves(at, target, limit, rejected)
    phase = _phase(at, target, rejected, trial)
    return Advance(
        sizes=_sizes(at, target, limit, undrain),
        drain=tuple(drain),
        undrain=tuple(undrain),
        rejected=rejected,
        phase=phase,
        reason=_reason(at, target, rejected, why, phase, trial),
        canary_weight=trial.weight if trial.since is not None else 0,
        canary_since=trial.since,
        again_in=_again_in(at, trial),
    )


def failure(at: RolloutState) -> str:
    """Return why the wanted revision must not replace the stable one; empty: it may."""
    if not at.stable or at.wanted == at.stable or at.stable not in at.sizes:
        return ""
    new = [w for w in at.workers if w.revision == at.wanted]
    unready = [w for w in new if not w.ready and not w.draining]
    broken = next((w.failing for w in unready if w.failing), "")
    if broken:
        return broken
    placed = [w for w in unready if not w.unschedulable]
    if placed and at.updating_since is not None:
        waited = at.now - at.updating_since
        if waited >= at.progress_deadline:
            return f"{len(placed)} workers not ready {waited:.0f} s after the rollout began"
    return over_budget(at.counts.get(at.wanted, (0, 0)), at.counts.get(at.stable, (0, 0)))


@dataclass(frozen=True)
class _Trial:
    """A canary: weight zero means that there is none, or that it has passed."""

    weight: int = 0
    workers: int = 0
    since: float | None = None
    left: float | None = None


def _trial(at: RolloutState, target: str) -> _Trial:
    plain = not at.canary or not at.stable or target in (at.stable, at.rejected)
    if at.canary is None or plain or not any(_staying(at, at.stable)):
        return _Trial()
    workers = max(1, ceil(at.replicas * at.canary.weight / 100))
    since = at.canary_since
    if since is None and sum(w.ready for w in _staying(at, target)) >= workers:
        since = at.now
    if since is None:
        return _Trial(at.canary.weight, workers)
    left = since + at.pause - at.now
    if left <= 0:
        return _Trial(since=since)
    return _Trial(at.canary.weight, workers, since, left)


def _moves(at: RolloutState, target: str, limit: int, rejected: str) -> tuple[list[str], list[str]]:
    """Return whom to give work again, and whom to take it from."""
    mine = [w for w in at.workers if w.revision == target]
    staying = [w for w in mine if not w.draining]
    leaving = sorted((w for w in mine if w.draining), key=lambda w: (not w.ready, w.id))
    undrain = [w.id for w in leaving[: max(0, limit - len(staying))]]
    surplus = sorted(staying, key=_emptiest)[: max(0, len(staying) - limit)]
    ready = sum(w.ready for w in at.workers if not w.draining) + len(undrain)
    ready -= sum(w.ready for w in surplus)
    floor = at.replicas - at.max_unavailable
    others = [w for w in at.workers if w.revision != target and not w.draining]
    # Spared are those that a worker of the target stands in for, those that may be missing, and
    # all of a revision that was rejected.
    keep = max(0, floor - sum(w.ready for w in staying))
    spare = len([w for w in others if w.revision != rejected]) - keep
    drain = [w.id for w in surplus]
    for worker in sorted(others, key=lambda w: (w.revision != rejected, *_emptiest(w))):
        if worker.revision != rejected:
            if spare <= 0:
                continue
            spare -= 1
        if worker.ready:
            if ready - 1 < floor:
                continue
            ready -= 1
        drain.append(worker.id)
    left = sum(w.id not in drain for w in others)
    room = max(0, at.replicas + at.max_surge - left)
    return _within(room, staying, undrain, drain)


def _within(
    room: int, staying: list[Worker], undrain: list[str], drain: list[str]
) -> tuple[list[str], list[str]]:
    """Let workers that are not ready go where a shrunken pool has no room for so many."""
    unready = sorted((w for w in staying if not w.ready and w.id not in drain), key=_emptiest)
    kept = sum(w.id not in drain for w in staying)
    undrain = undrain[: max(0, room - kept)]
    return undrain, [*drain, *(w.id for w in unready[: max(0, kept - room)])]


def _sizes(
    at: RolloutState,
    target: str,
    limit: int,
    undrain: list[str],
) -> dict[str, int]:
    """Return the size of every Deployment: what exists, less who can go, plus who may come."""
    sizes: dict[str, int] = {}
    staying = 0
    # Pods of the stable revision that are yet to come are waited for only as far as nothing else
    # stands in for them.
    standing = [w for w in at.workers if not w.draining and (w.ready or w.revision != target)]
    missing = max(0, at.replicas - len(standing))
    for revision in {*at.sizes, *(w.revision for w in at.workers)} - {target}:
        size, stays = _others(at, revision, missing)
        sizes[revision] = size
        staying += stays
    mine = [w for w in at.workers if w.revision == target]
    gone = sum(w.removable and w.id not in undrain for w in mine)
    draining = sum(w.draining and w.id not in undrain for w in mine)
    coming = max(0, at.sizes.get(target, 0) - len(mine))
    have = len(mine) - draining + coming
    surge = at.max_surge if staying else 0
    room = at.replicas + surge - staying - have
    grow = min(limit - have, room)
    sizes[target] = len(mine) - gone + max(0, coming + grow)
    return sizes


def _others(at: RolloutState, revision: str, missing: int) -> tuple[int, int]:
    """Return the size of a revision that is on its way out, and how many of it stay for now."""
    workers = [w for w in at.workers if w.revision == revision]
    gone = sum(w.removable for w in workers)
    coming = min(missing, max(0, at.sizes.get(revision, 0) - len(workers)))
    if revision != at.stable:
        coming = 0  # nobody waits for these
    stays = sum(not w.draining for w in workers) + coming
    return len(workers) - gone + coming, stays


def _staying(at: RolloutState, revision: str) -> list[Worker]:
    return [w for w in at.workers if w.revision == revision and not w.draining]


def _emptiest(worker: Worker) -> tuple[bool, float, float, str]:
    return (worker.ready, worker.outstanding, worker.age, worker.id)


def _phase(at: RolloutState, target: str, rejected: str, trial: _Trial) -> Phase:
    others = any(w.revision != target for w in at.workers) or any(
        size for revision, size in at.sizes.items() if revision != target
    )
    if rejected:
        return Phase.ROLLING_BACK if others else Phase.ROLLED_BACK
    if trial.weight:
        return Phase.CANARY
    return Phase.UPDATING if others else Phase.STABLE


def _reason(
    at: RolloutState, target: str, rejected: str, why: str, phase: Phase, trial: _Trial
) -> str:
    if why:
        return f"rolled back to {target}: {why}"
    if rejected:
        return f"{rejected} failed and stays out until the spec changes; {target} serves"
    if phase is Phase.CANARY and trial.left is not None:
        return (
            f"{target} is on trial with {trial.weight} % of the requests, {trial.left:.0f} s left"
        )
    if phase is Phase.CANARY:
        return f"{target} goes on trial as soon as {trial.workers} of it are ready"
    if phase is Phase.UPDATING:
        old = sum(w.revision != target for w in at.workers)
        return f"{old} workers of an older revision to be replaced by {target}"
    return ""


def _again_in(at: RolloutState, trial: _Trial) -> float | None:
    if trial.left is not None:
        return trial.left
    unready = any(w.revision == at.wanted and not w.ready for w in at.workers)
    if at.updating_since is not None and at.wanted != at.stable and unready:
        left = at.updating_since + at.progress_deadline - at.now
        return left if left > 0 else None
    return None
