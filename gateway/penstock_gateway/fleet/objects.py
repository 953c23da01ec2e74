"""What Kubernetes objects say about models and workers. Pure: plain objects in, a fleet out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from penstock_contract import worker_pod
from penstock_contract.api import Role
from penstock_contract.api.engine import Engine, EngineType, Task
from penstock_contract.api.inference import Disaggregation, Queue, RequestClass, Retry
from penstock_contract.api.slo import Slo
from penstock_contract.api.stored import as_stored
from penstock_contract.fleet import (
    Fleet,
    FleetCanary,
    FleetDisaggregation,
    FleetModel,
    FleetQueue,
    FleetWorker,
    WorkerState,
)
from penstock_contract.labels import ADAPTERS, DEPLOYMENT, DRAINING, POOL, ROLE, ROLLOUT_HASH
from penstock_contract.served_names import Asked, asked, by_age, holders
from penstock_contract.worker_pod import CONTAINER

Object = Mapping[str, Any]

PORT_NAME = "http"


@dataclass(frozen=True)
class Claim(Asked):
    """An InferenceDeployment: the served names that it asks for, and how to serve it."""

    canary: FleetCanary | None = None
    queue: FleetQueue | None = None
    policy: str = "PrefixAware"
    retry: Retry = field(default_factory=Retry)
    disaggregation: FleetDisaggregation = field(default_factory=FleetDisaggregation)
    tpot: float | None = None
    """Seconds between two tokens."""
    ttft: float | None = None
    """Seconds to the first one."""
    task: Task = Task.AUTO
    engine: EngineType = EngineType.PENSTOCK
    parsers: tuple[str, ...] = ()
    """vLLM's that divide its answers."""


@dataclass(frozen=True)
class Conflict:
    """A served name that was given to another, older InferenceDeployment."""

    name: str
    winner: str
    loser: str

    def __str__(self) -> str:
        return f"{self.loser} asks for the served name {self.name!r}, which {self.winner} has"


def claim(found: Object) -> Claim:
    """Return what an InferenceDeployment asks for."""
    names, slo, engine = asked(found), _slo(found.get("spec", {})), _engine(found.get("spec", {}))
    return Claim(
        deployment=names.deployment,
        names=names.names,
        created=names.created,
        adapters=names.adapters,
        canary=_canary(found.get("status", {}).get("canary")),
        queue=_queue(found.get("spec", {})),
        policy=found.get("spec", {}).get("routing", {}).get("policy", Claim.policy),
        retry=_retry(found.get("spec", {})),
        disaggregation=_disaggregation(found.get("spec", {})),
        tpot=slo.tpot_seconds,
        ttft=slo.ttft_seconds,
        task=_task(found.get("spec", {})),
        engine=engine.type,
        parsers=engine.parsers,
    )


def worker(pod: Object) -> FleetWorker | None:
    """Return the worker that runs in a pod; None while it cannot answer.

    One that was ready and is not now counts as draining: nothing new goes to it, and what it has
    goes on.
    """
    meta, status = pod["metadata"], pod.get("status", {})
    labels = meta.get("labels", {})
    state = _state(pod)
    address = status.get("podIP", "")
    if state is None or not address or DEPLOYMENT not in labels:
        return None
    host = f"[{address}]" if ":" in address else address
    return FleetWorker(
        id=meta["uid"],
        url=f"http://{host}:{_port(pod)}",
        deployment=f"{meta['namespace']}/{labels[DEPLOYMENT]}",
        pool=labels.get(POOL, ""),
        role=_role(labels.get(ROLE)),
        revision=labels.get(ROLLOUT_HASH, ""),
        state=state,
        adapters=_adapters(meta.get("annotations", {}).get(ADAPTERS)),
    )


def fleet(
    claims: Iterable[Claim], workers: Iterable[FleetWorker], generation: int
) -> tuple[Fleet, tuple[Conflict, ...]]:
    """Return the fleet, and the claims of names that went to an older InferenceDeployment."""
    oldest_first = sorted(claims, key=by_age)
    held = holders(oldest_first)
    models: list[FleetModel] = []
    conflicts: list[Conflict] = []
    for found in oldest_first:
        own = [name for name in found.all if held.get(name) == found.deployment]
        lost = [name for name in found.all if held.get(name, found.deployment) != found.deployment]
        conflicts += [Conflict(name, held[name], found.deployment) for name in lost]
        if names := [name for name in own if name in found.names]:
            models.append(_model(found, names, own))
    ordered = sorted(workers, key=lambda w: w.id)
    known = Fleet(generation=generation, models=tuple(models), workers=tuple(ordered))
    return known, tuple(conflicts)


def _model(found: Claim, names: list[str], own: list[str]) -> FleetModel:
    return FleetModel(
        name=names[0],
        aliases=tuple(names[1:]),
        adapters=tuple(name for name in own if name not in names),
        deployment=found.deployment,
        created=found.created,
        canary=found.canary,
        queue=found.queue,
        policy=found.policy,
        attempts=found.retry.attempts,
        resume_streams=found.retry.resume_streams,
        disaggregation=found.disaggregation,
        tpot=found.tpot,
        ttft=found.ttft,
        task=found.task,
        engine=found.engine,
        parsers=found.parsers,
    )


def _canary(found: Mapping[str, Any] | None) -> FleetCanary | None:
    if not found:
        return None
    return FleetCanary(revision=found["revision"], weight=found["weight"])


def _queue(spec: Mapping[str, Any]) -> FleetQueue | None:
    """Return how requests wait; None when the spec is of a version that has other words for it."""
    per_worker = spec.get("engine", {}).get("maxNumSeqs", Engine().max_num_seqs)
    try:
        classes = [
            as_stored(RequestClass.model_validate, found)
            for found in spec.get("requestClasses", [])
        ]
        return FleetQueue.of(
            as_stored(Queue.model_validate, spec.get("queue", {})), classes, per_worker
        )
    except ValidationError:
        return None


def _retry(spec: Mapping[str, Any]) -> Retry:
    """Return what is done when a worker fails; the default when the spec has other words for it."""
    try:
        return as_stored(Retry.model_validate, spec.get("routing", {}).get("retry", {}))
    except ValidationError:
        return Retry()


def _disaggregation(spec: Mapping[str, Any]) -> FleetDisaggregation:
    """Return when prompts are computed elsewhere; the default when the spec has other words."""
    try:
        found = as_stored(Disaggregation.model_validate, spec.get("disaggregation", {}))
    except ValidationError:
        found = Disaggregation()
    return FleetDisaggregation(mode=found.mode, min_uncached_tokens=found.min_uncached_tokens)


def _slo(spec: Mapping[str, Any]) -> Slo:
    """Return the objectives; none when the spec has other words for them."""
    try:
        return as_stored(Slo.model_validate, spec.get("slo", {}))
    except ValidationError:
        return Slo()


def _task(spec: Mapping[str, Any]) -> Task:
    """Return what the model is for; Auto when the spec has other words for it."""
    try:
        return Task(spec.get("engine", {}).get("task", Task.AUTO))
    except ValueError:
        return Task.AUTO


def _engine(spec: Mapping[str, Any]) -> Engine:
    """Return what workers run; Penstock's engine when the spec has other words for it."""
    try:
        return as_stored(Engine.model_validate, spec.get("engine", {}))
    except ValidationError:
        return Engine()


def _adapters(told: str | None) -> tuple[str, ...] | None:
    return None if told is None else tuple(name for name in told.split(",") if name)


def _state(pod: Object) -> WorkerState | None:
    meta = pod["metadata"]
    ready = worker_pod.is_ready(pod)
    leaving = "deletionTimestamp" in meta or DRAINING in meta.get("annotations", {})
    if ready and not leaving:
        return WorkerState.READY
    return WorkerState.DRAINING if ready or worker_pod.is_started(pod) else None


def _port(pod: Object) -> int:
    containers = pod.get("spec", {}).get("containers", [])
    own = [port for c in containers if c.get("name") == CONTAINER for port in c.get("ports", [])]
    named = [port for port in own if port.get("name") == PORT_NAME]
    return int((named or own or [{"containerPort": 8000}])[0]["containerPort"])


def _role(label: str | None) -> Role:
    return Role(label) if label in list(Role) else Role.UNIFIED
