"""What is seen of one InferenceDeployment and all that belongs to it, as plain values. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock_contract import worker_pod
from penstock_contract.adapters import AGENT, AdapterReport
from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.fleet import WorkerLoad
from penstock_contract.labels import (
    ADAPTERS,
    DRAINING,
    LEADER,
    LEADER_ADDRESS,
    NODE_RANK,
    POOL,
    ROLLOUT_HASH,
)
from penstock_operator.manifests import Object
from penstock_operator.manifests.sources import DOWNLOAD
from penstock_operator.snapshot import Obstacle, ScalingReport

GIVES_UP_AFTER = 2
"""Restarts after which a container that has not started again counts as failing."""


@dataclass(frozen=True)
class Pod:
    """A worker's pod, or that of a follower."""

    uid: str
    name: str
    pool: str
    revision: str
    version: str
    """resourceVersion."""
    ready: bool
    """Its engine is, whatever becomes of the containers beside it."""
    deleting: bool
    draining: bool
    address: str
    failing: str
    """How its engine, or what runs before that, keeps ending; empty: it does not."""
    waiting: str
    """Why these can't start; empty: they can."""
    starting: bool
    """It has a node, and nothing of it has run yet."""
    unschedulable: str
    """Why it finds no node, in the scheduler's words; empty: it has one, or is new."""
    beside: str = ""
    """What is wrong with a container beside its engine; empty: nothing."""
    whole: bool = True
    """All of its containers are ready, by which its ReplicaSet knows it."""
    placed: bool = True
    """It has a node."""
    fetching: bool = False
    """It is being given its model, by a container that runs before its engine."""
    over: bool = False
    """It has ended for good, and is kept only to be looked at."""
    grace: float = 0.0
    """Seconds within which it should be gone, once it is being deleted."""
    initialized: str = ""
    """Since when its engine may start, RFC 3339; empty: it may not yet."""
    started: str = ""
    """When its engine was started last, RFC 3339; empty: it does not run."""
    ended: str = ""
    """When its engine ended last; empty: it never has."""
    ready_since: str = ""
    """Empty: it is not ready."""
    leader: str = ""
    """Name of the pod that it computes for; empty: it serves by itself."""
    leader_address: str = ""
    """The address of that when this one was made."""
    rank: int = 0
    """Its place in its replica; the leader's is 0."""
    agent: bool = False
    """It has a container that brings adapters."""
    adapters: tuple[str, ...] | None = None
    """Those that gateways know it to have, sorted; None: nobody has told them."""


@dataclass(frozen=True)
class Gateways:
    """What the gateways say."""

    ready: bool = False
    url: str | None = None
    loads: Mapping[str, WorkerLoad] = field(default_factory=dict)
    """By pod uid, summed over the gateways."""
    confirmed: frozenset[str] = frozenset()
    """Pods that every gateway knows to be draining, or does not know at all."""
    fresh: bool = True
    """The loads are of this moment, or there is nobody who could tell them."""


@dataclass(frozen=True)
class Observed:
    """An InferenceDeployment at one moment. `now` is in seconds of a clock that never goes back."""

    raw: Object
    """The InferenceDeployment as stored."""
    deployment: InferenceDeployment | None
    """The same, understood; None: it cannot be."""
    invalid: str
    """Why not, by field."""
    pools: Mapping[str, EnginePool]
    """EnginePools by name."""
    children: Mapping[tuple[str, str], Object]
    """Everything else but workloads and pods, by kind and name."""
    workloads: Mapping[str, Object]
    """Deployments by name."""
    pods: tuple[Pod, ...]
    """Those that serve."""
    gateways: Gateways
    served: frozenset[str]
    """Kinds that the cluster serves, like `policy/v1/PodDisruptionBudget`."""
    followers: tuple[Pod, ...] = ()
    """Those that compute for one that serves."""
    refused: Obstacle | None = None
    """Why something could not be made when it was tried last."""
    scaling: ScalingReport | None = None
    """What the autoscaler says."""
    adapters: Mapping[str, AdapterReport] = field(default_factory=dict)
    """What agents said last, by pod uid."""
    names_lost: Mapping[str, str] = field(default_factory=dict)
    """Served names that it asks for → the older InferenceDeployment that has them."""
    now: float = 0.0
    time: str = "1970-01-01T00:00:00Z"
    """The same moment for people, RFC 3339."""
    since: Mapping[str, float] = field(default_factory=dict)
    """When draining pods (by uid), canaries (by revision), and what loads or ails a replica (by its
    own words) were first seen, by the clock of `now`."""

    def pods_of(self, pool: str) -> list[Pod]:
        """Return the pods of a pool that are there to stay.

        One that was evicted may be kept for ever, only to be looked at.
        """
        mine = (pod for pod in self.pods if pod.pool == pool)
        return [pod for pod in mine if not (pod.deleting or pod.over)]

    def workloads_of(self, pool: str) -> dict[str, Object]:
        """Return the Deployments of a pool by revision."""
        return {
            labels.get(ROLLOUT_HASH, ""): found
            for found in self.workloads.values()
            if (labels := found["metadata"].get("labels", {})).get(POOL) == pool
            and "deletionTimestamp" not in found["metadata"]
        }


def pod(found: Object) -> Pod:
    """Return what matters of a pod."""
    meta, state = found["metadata"], found.get("status", {})
    conditions = {c["type"]: c for c in state.get("conditions", [])}
    placed = conditions.get("PodScheduled", {})
    labels, marks = meta.get("labels", {}), meta.get("annotations", {})
    started, ended = _run(worker_pod.worker_status(found))
    needed, beside = _by_need(state, initialized=_holds(conditions, "Initialized"))
    return Pod(
        uid=meta["uid"],
        name=meta["name"],
        pool=labels.get(POOL, ""),
        revision=labels.get(ROLLOUT_HASH, ""),
        version=meta["resourceVersion"],
        ready=worker_pod.is_ready(found),
        deleting="deletionTimestamp" in meta,
        draining=DRAINING in marks,
        address=state.get("podIP", ""),
        failing=_first(map(_failing, needed)),
        waiting=_first(map(_waiting, needed)),
        beside=_first(_failing(one) or _waiting(one) for one in beside),
        whole=_holds(conditions, "Ready"),
        starting=_starting(state, placed),
        fetching=any(map(_is_fetching, _initial(state))),
        unschedulable=placed.get("message", "") if placed.get("reason") == "Unschedulable" else "",
        placed=placed.get("status") == "True",
        over=state.get("phase") in ("Failed", "Succeeded"),
        grace=float(meta.get("deletionGracePeriodSeconds") or 0),
        initialized=_since(conditions, "Initialized"),
        started=started,
        ended=ended,
        ready_since=_since(conditions, "Ready"),
        leader=labels.get(LEADER, ""),
        leader_address=marks.get(LEADER_ADDRESS, ""),
        agent=any(one["name"] == AGENT for one in state.get("containerStatuses", [])),
        adapters=_names(marks.get(ADAPTERS)),
        rank=int(rank) if (rank := labels.get(NODE_RANK, "")).isdecimal() else 0,
    )


def _holds(conditions: Mapping[str, Object], kind: str) -> bool:
    return bool(conditions.get(kind, {}).get("status") == "True")


def _names(told: str | None) -> tuple[str, ...] | None:
    return None if told is None else tuple(sorted(name for name in told.split(",") if name))


def _since(conditions: Mapping[str, Object], kind: str) -> str:
    """Return since when a condition holds; empty: it does not."""
    found = conditions.get(kind, {}).get("lastTransitionTime", "")
    return str(found) if _holds(conditions, kind) else ""


def _run(engine: Mapping[str, Any]) -> tuple[str, str]:
    """Return since when a pod's engine runs, and when it ended before; empty: it does, has, not."""
    now, before = engine.get("state") or {}, engine.get("lastState") or {}
    ended = now.get("terminated") or before.get("terminated") or {}
    started = (now.get("running") or {}).get("startedAt")
    return started or "", ended.get("finishedAt") or ""


def _by_need(state: Object, *, initialized: bool) -> tuple[list[Object], list[Object]]:
    """Return the containers that the worker needs to start, its own among them, and the others.

    What runs before it may be there to stay, as a sidecar: once it may start, it needs that no
    more.
    """
    statuses = state.get("containerStatuses", [])
    own = [one for one in statuses if one["name"] == worker_pod.CONTAINER]
    others = [one for one in statuses if one["name"] != worker_pod.CONTAINER]
    first = _initial(state)
    return (own, [*first, *others]) if initialized else ([*first, *own], others)


def _starting(state: Object, placed: Object) -> bool:
    states = [container.get("state", {}) for container in _containers(state)]
    begun = any(found.get("running") or found.get("terminated") for found in states)
    return state.get("phase") == "Pending" and placed.get("status") == "True" and not begun


def _containers(state: Object) -> list[Object]:
    return [*_initial(state), *state.get("containerStatuses", [])]


def _initial(state: Object) -> list[Object]:
    found: list[Object] = state.get("initContainerStatuses", [])
    return found


def _is_fetching(container: Object) -> bool:
    """A sidecar among those that run first has started, and goes on running."""
    return bool(container.get("state", {}).get("running")) and not container.get("started")


def _failing(container: Object) -> str:
    """A crash may happen; one that happens again and again is the revision's fault.

    Until it has started once more, another try changes nothing.
    """
    restarts = container.get("restartCount", 0)
    looping = container.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
    states = (container.get("lastState", {}), container.get("state", {}))
    ended = next((s["terminated"] for s in states if "terminated" in s), None)
    again = ended is not None and restarts >= GIVES_UP_AFTER and not container.get("started")
    if container.get("ready") or not (looping or again):
        return ""
    return _end(container["name"], ended or {}, restarts)


def _end(name: str, ended: Object, restarts: int) -> str:
    often = "once" if restarts == 1 else f"{restarts} times"
    if ended.get("reason") == "OOMKilled":
        return f"{name} ran out of memory, {often}: {_remedy(name)}"
    said = str(ended.get("message", "")).strip().splitlines()
    words = f"{name} exited with code {ended.get('exitCode', '?')}, {often}"
    return f"{words}: {said[-1]}" if said else words


def _remedy(name: str) -> str:
    """Say what helps a container that ran out of memory: the limits of our downloads are fixed."""
    if name == AGENT or name.startswith(DOWNLOAD):
        return "no field raises its limit; name pvc:// or oci://, of which nothing is downloaded"
    whose = "of the pool" if name == worker_pod.CONTAINER else "of that container"
    return f"raise resources.limits.memory {whose}"


def _waiting(container: Object) -> str:
    found = container.get("state", {}).get("waiting", {})
    if found.get("reason") in (None, "ContainerCreating", "PodInitializing", "CrashLoopBackOff"):
        return ""
    return f"{container['name']}: {found['reason']}: {found.get('message', '')}".rstrip(": ")


def _first(words: Iterable[str]) -> str:
    return next(filter(None, words), "")
