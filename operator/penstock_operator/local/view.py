"""What the runtime tells: the fleet for the gateway, the status for the user.

Pure: both are computed from what is wanted and what was observed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from penstock_contract.api import InferenceDeployment
from penstock_contract.fleet import (
    Fleet,
    FleetDisaggregation,
    FleetModel,
    FleetQueue,
    FleetWorker,
    WorkerState,
)
from penstock_operator.local.decide import GATEWAY, Phase, PoolKey, Wanted
from penstock_operator.local.desired import Desired
from penstock_operator.local.member import Member
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

    def is_over(self, members: Iterable[Member]) -> bool:
        """Whether a process of the pool has become ready since."""
        return any(m.ready_since is not None and m.ready_since > self.at for m in members)

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


def fleet(desired: Desired, members: Iterable[Member], generation: int) -> Fleet:
    """Return the models that are served and the workers that answer."""
    models = [
        FleetModel(
            name=deployment.served_name,
            aliases=tuple(deployment.spec.model.aliases),
            adapters=tuple(adapter.name for adapter in deployment.spec.model.adapters),
            deployment=deployment.metadata.name,
            created=_unix(deployment.metadata.creation_timestamp),
            queue=FleetQueue.of(
                deployment.spec.queue,
                deployment.spec.request_classes,
                deployment.spec.engine.max_num_seqs,
            ),
            policy=deployment.spec.routing.policy,
            attempts=deployment.spec.routing.retry.attempts,
            resume_streams=deployment.spec.routing.retry.resume_streams,
            disaggregation=FleetDisaggregation(
                mode=deployment.spec.disaggregation.mode,
                min_uncached_tokens=deployment.spec.disaggregation.min_uncached_tokens,
            ),
            tpot=deployment.spec.slo.tpot_seconds,
            ttft=deployment.spec.slo.ttft_seconds,
            task=deployment.spec.engine.task,
        )
        for deployment in desired.deployments
    ]
    workers = [
        FleetWorker(
            id=member.id,
            url=member.url,
            deployment=member.key.deployment,
            pool=member.key.pool,
            role=member.role,
            revision=member.wanted.revision,
            state=SERVING[member.phase],
        )
        for member in members
        if member.role is not None and member.phase in SERVING
    ]
    return Fleet(generation=generation, models=tuple(models), workers=tuple(workers))


def _unix(timestamp: str | None) -> int:
    return int(datetime.fromisoformat(timestamp).timestamp()) if timestamp else 0


def pools(
    deployment: str,
    desired: Desired,
    members: Sequence[Member],
    failures: Mapping[PoolKey, Failure],
) -> list[PoolSnapshot]:
    """Return what was observed of a deployment's pools, in the order of its spec."""
    return [
        _snapshot(planned.wanted, _of(members, key), failures.get(key))
        for key, planned in desired.pools.items()
        if key.deployment == deployment
    ]


def _of(members: Iterable[Member], key: PoolKey) -> list[Member]:
    return [member for member in members if member.key == key]


def _snapshot(wanted: Wanted, members: list[Member], failure: Failure | None) -> PoolSnapshot:
    staying = [member for member in members if not member.observed().leaving]
    return PoolSnapshot(
        name=wanted.key.pool,
        desired=wanted.replicas,
        ready=sum(member.phase is Phase.READY for member in members),
        outdated=sum(member.wanted.revision != wanted.revision for member in staying),
        draining=len(members) - len(staying),
        failure=f"{failure.process} {failure.ended}"
        if failure and not failure.is_over(members)
        else "",
    )


def item(
    deployment: InferenceDeployment,
    members: Sequence[Member],
    failures: Mapping[PoolKey, Failure],
) -> dict[str, Any]:
    """Return a deployment (with its status) and what runs for it, as `penstock get` shows it."""
    name = deployment.metadata.name
    return {
        **deployment.to_json(),
        "servedName": deployment.served_name,
        "workers": [_worker(member) for member in members if member.key.deployment == name],
        "failures": [
            {"pool": key.pool, "over": failure.is_over(_of(members, key)), **failure.to_json()}
            for key, failure in sorted(failures.items())
            if key.deployment == name
        ],
    }


def leaving(desired: Desired, members: Iterable[Member]) -> list[dict[str, Any]]:
    """Return the workers of deployments that were taken away; they finish what they have."""
    wanted = {deployment.metadata.name for deployment in desired.deployments}
    return [
        {**_worker(member), "deployment": member.key.deployment}
        for member in members
        if member.role is not None and member.key.deployment not in wanted
    ]


def _worker(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "pool": member.key.pool,
        "role": str(member.role or "Gateway"),
        "state": member.phase.value,
        "pid": member.process.pid,
        "url": member.url,
        "revision": member.wanted.revision,
        "startedAt": member.started_at,
    }


def gateway(members: Iterable[Member], failure: Failure | None) -> dict[str, Any]:
    """Return how the gateway is."""
    found = next((member for member in members if member.key == GATEWAY.key), None)
    return {
        "state": found.phase.value if found else "Absent",
        "pid": found.process.pid if found else None,
        "lastEnd": failure.ended if failure else None,
        "failuresInARow": failure.in_a_row if failure else 0,
        "restarts": failure.restarts if failure else 0,
    }
