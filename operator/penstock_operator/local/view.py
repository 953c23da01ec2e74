"""What the runtime tells: the fleet for the gateway, the status for the user.

Pure: both are computed from what is wanted and what was observed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock_contract.adapters import AdapterFound, AdapterReport, AdapterState
from penstock_contract.api import InferenceDeployment
from penstock_contract.api.model import Adapter
from penstock_contract.api.status import AdapterStatus
from penstock_contract.fleet import (
    Fleet,
    FleetDisaggregation,
    FleetModel,
    FleetQueue,
    FleetWorker,
    WorkerState,
)
from penstock_operator.local.child import Child
from penstock_operator.local.decide import GATEWAY, Phase, PoolKey, Wanted
from penstock_operator.local.desired import Desired
from penstock_operator.snapshot import PoolSnapshot

SERVING = {
    Phase.READY: WorkerState.READY,
    Phase.DRAINING: WorkerState.DRAINING,
    Phase.TERMINATING: WorkerState.DRAINING,
}


@dataclass(frozen=True)
class Failure:
    """The last time that a process of a pool ended unasked."""

    process: str
    ended: str
    """How, in words."""
    in_a_row: int
    restarts: int
    """All of them since the runtime began, or since the revision changed."""
    at: float
    """When, in monotonic seconds."""

    def is_over(self, children: Iterable[Child]) -> bool:
        """Whether a process of the pool has become ready since."""
        return any(c.ready_since is not None and c.ready_since > self.at for c in children)

    def to_json(self) -> dict[str, Any]:
        """Return it as the status shows it."""
        return {
            "process": self.process,
            "lastEnd": self.ended,
            "failuresInARow": self.in_a_row,
            "restarts": self.restarts,
        }


def restarts(failure: Failure | None) -> int:
    """Return how often a pool's processes ended unasked."""
    return failure.restarts if failure else 0


def fleet(desired: Desired, children: Iterable[Child], generation: int) -> Fleet:
    """Return the models that are served and the workers that answer."""
    workers = [
        FleetWorker(
            id=child.id,
            url=child.url,
            deployment=child.key.deployment,
            pool=child.key.pool,
            role=child.role,
            revision=child.wanted.revision,
            state=SERVING[child.phase],
            adapters=() if child.report is None else child.report().loaded,
        )
        for child in children
        if child.role is not None and child.phase in SERVING
    ]
    models = tuple(_model(deployment) for deployment in desired.deployments)
    return Fleet(generation=generation, models=models, workers=tuple(workers))


def _model(deployment: InferenceDeployment) -> FleetModel:
    spec = deployment.spec
    return FleetModel(
        name=deployment.served_name,
        aliases=tuple(spec.model.aliases),
        adapters=tuple(adapter.name for adapter in spec.model.adapters),
        deployment=deployment.metadata.name,
        created=_unix(deployment.metadata.creation_timestamp),
        queue=FleetQueue.of(spec.queue, spec.request_classes, spec.engine.max_num_seqs),
        policy=spec.routing.policy,
        attempts=spec.routing.retry.attempts,
        resume_streams=spec.routing.retry.resume_streams,
        disaggregation=FleetDisaggregation(
            mode=spec.disaggregation.mode,
            min_uncached_tokens=spec.disaggregation.min_uncached_tokens,
        ),
        tpot=spec.slo.tpot_seconds,
        ttft=spec.slo.ttft_seconds,
        task=spec.engine.task,
        engine=spec.engine.type,
        parsers=spec.engine.parsers,
    )


def _unix(timestamp: str | None) -> int:
    return int(datetime.fromisoformat(timestamp).timestamp()) if timestamp else 0


def pools(
    deployment: str,
    desired: Desired,
    children: Sequence[Child],
    failures: Mapping[PoolKey, Failure],
) -> list[PoolSnapshot]:
    """Return what was observed of a deployment's pools, in the order of its spec."""
    return [
        _snapshot(planned.wanted, _of(children, key), failures.get(key))
        for key, planned in desired.pools.items()
        if key.deployment == deployment
    ]


def adapters(deployment: InferenceDeployment, children: Iterable[Child]) -> list[AdapterStatus]:
    """Return how far each adapter of a deployment is on the workers that serve."""
    name = deployment.metadata.name
    serving = [c for c in children if c.key.deployment == name and not c.observed().leaving]
    return [_adapter(adapter, serving) for adapter in deployment.spec.model.adapters]


def _adapter(adapter: Adapter, children: Iterable[Child]) -> AdapterStatus:
    found = [(child, _on(adapter, child.report())) for child in children if child.report]
    workers = [one for child, one in found if child.phase is Phase.READY]
    ready = sum(one.state is AdapterState.READY for one in workers)
    failed = next((f"{c.id}: {o.message}" for c, o in found if o.state is AdapterState.FAILED), "")
    state = AdapterState.READY if workers and ready == len(workers) else AdapterState.LOADING
    return AdapterStatus(
        name=adapter.name,
        state=AdapterState.FAILED if failed else state,
        ready=ready,
        workers=len(workers),
        message=failed,
    )


def _on(adapter: Adapter, report: AdapterReport) -> AdapterFound:
    """Return how far an adapter is on one worker, which may still tell of others by its name."""
    found = report.adapters.get(adapter.name)
    return found if found is not None and found.uri == adapter.uri else AdapterFound()


def _of(children: Iterable[Child], key: PoolKey) -> list[Child]:
    return [child for child in children if child.key == key]


def _snapshot(wanted: Wanted, children: list[Child], failure: Failure | None) -> PoolSnapshot:
    staying = [child for child in children if not child.observed().leaving]
    return PoolSnapshot(
        name=wanted.key.pool,
        desired=wanted.replicas,
        revision=wanted.revision,
        ready=sum(child.phase is Phase.READY for child in children),
        outdated=sum(child.wanted.revision != wanted.revision for child in staying),
        draining=len(children) - len(staying),
        failure=f"{failure.process} {failure.ended}"
        if failure and not failure.is_over(children)
        else "",
    )


def item(
    deployment: InferenceDeployment,
    children: Sequence[Child],
    failures: Mapping[PoolKey, Failure],
) -> dict[str, Any]:
    """Return a deployment (with its status) and what runs for it, as `penstock get` shows it."""
    name = deployment.metadata.name
    return {
        **deployment.to_json(),
        "servedName": deployment.served_name,
        "workers": [_worker(child) for child in children if child.key.deployment == name],
        "failures": [
            {"pool": key.pool, "over": failure.is_over(_of(children, key)), **failure.to_json()}
            for key, failure in sorted(failures.items())
            if key.deployment == name
        ],
    }


def leaving(desired: Desired, children: Iterable[Child]) -> list[dict[str, Any]]:
    """Return the workers of deployments that were taken away; they finish what they have."""
    wanted = {deployment.metadata.name for deployment in desired.deployments}
    return [
        {**_worker(child), "deployment": child.key.deployment}
        for child in children
        if child.role is not None and child.key.deployment not in wanted
    ]


def _worker(child: Child) -> dict[str, Any]:
    return {
        "id": child.id,
        "pool": child.key.pool,
        "role": str(child.role or "Gateway"),
        "state": child.phase.value,
        "pid": child.process.pid,
        "url": child.url,
        "revision": child.wanted.revision,
        "startedAt": child.started_at,
    }


def gateway(children: Iterable[Child], failure: Failure | None) -> dict[str, Any]:
    """Return how the gateway is."""
    found = next((child for child in children if child.key == GATEWAY.key), None)
    return {
        "state": found.phase.value if found else "Absent",
        "pid": found.process.pid if found else None,
        "lastEnd": failure.ended if failure else None,
        "failuresInARow": failure.in_a_row if failure else 0,
        "restarts": failure.restarts if failure else 0,
    }
