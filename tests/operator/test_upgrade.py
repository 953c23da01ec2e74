"""A newer operator restarts nothing: what runs keeps the template that it was made with."""

from dataclasses import replace
from typing import Any

import pytest
from deployments import manifest

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.conditions import ConditionType
from penstock_operator import plan
from penstock_operator.cluster.actions import Apply, Create, Decision, Merge, WriteStatus
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.observed import Gateways, Observed, Pod
from penstock_operator.manifests import Settings

OLD = Settings()
NEW = Settings(worker_image="registry/worker:2", vllm_image="registry/vllm:2")
SERVED = frozenset(
    {
        "v1/Service", "v1/ServiceAccount", "policy/v1/PodDisruptionBudget",
        "networking.k8s.io/v1/NetworkPolicy", "apps/v1/Deployment",
    }
)  # fmt: skip


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """Return an object as an API server gives it back."""
    uid = f"{body['kind']}-{body['metadata']['name']}"
    return {**body, "metadata": {**body["metadata"], "uid": uid, "resourceVersion": "1"}}


def observed_of(**spec: Any) -> Observed:
    raw = stored(manifest(**spec))
    raw["metadata"] |= {"namespace": "default", "generation": 1}
    return Observed(
        raw, InferenceDeployment.model_validate(raw), "", {}, {}, {}, (),
        Gateways(ready=True, url="http://gateway"), SERVED,
    )  # fmt: skip


def done(observed: Observed, decision: Decision) -> Observed:
    """Return what is seen after a cluster has done what was decided, and all pods are ready."""
    pools, children, workloads = (
        dict(observed.pools),
        dict(observed.children),
        dict(observed.workloads),
    )
    deployment = observed.deployment
    for action in decision.actions:
        if isinstance(action, Apply | Create):
            body = stored(action.body)
            name = body["metadata"]["name"]
            if body["kind"] == "EnginePool":
                pools[name] = EnginePool.model_validate(body)
            elif body["kind"] == "Deployment":
                workloads[name] = body
            else:
                children[body["kind"], name] = body
        elif isinstance(action, Merge) and action.kind == "Deployment":
            before = workloads[action.name]
            spec = {**before["spec"], **action.patch.get("spec", {})}
            workloads[action.name] = {**before, "spec": spec}
        elif isinstance(action, WriteStatus) and action.kind == "EnginePool":
            pool = {**pools[action.name].to_json(), "status": action.status}
            pools[action.name] = EnginePool.model_validate(pool)
        elif isinstance(action, WriteStatus) and deployment is not None:
            body = {**deployment.to_json(), "status": action.status}
            deployment = InferenceDeployment.model_validate(body)
    return replace(
        observed, deployment=deployment, pools=pools, children=children, workloads=workloads,
        pods=tuple(pod for body in workloads.values() for pod in pods_of(body)),
    )  # fmt: skip


def pods_of(workload: dict[str, Any]) -> list[Pod]:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    pool, revision = labels["penstock.dev/pool"], labels["penstock.dev/rollout-hash"]
    return [
        Pod(
            uid=f"{revision}-{index}", name=f"{revision}-{index}", pool=pool, revision=revision,
            version="1", ready=True, deleting=False, draining=False, address="10.0.0.1",
            failing="", waiting="", starting=False, unschedulable="",
        )
        for index in range(workload["spec"]["replicas"])
    ]  # fmt: skip


def settled(observed: Observed, settings: Settings) -> Observed:
    for _ in range(20):
        decision = decide(observed, settings)
        if not decision.actions:
            return observed
        observed = done(observed, decision)
    raise AssertionError(f"never settles: {decision.actions}")


def condition(observed: Observed, kind: str) -> str:
    assert observed.deployment is not None
    assert observed.deployment.status is not None
    found = {c.type: c.status for c in observed.deployment.status.conditions}
    return found[ConditionType(kind)]


def images(observed: Observed) -> list[str]:
    pods = [w["spec"]["template"]["spec"] for w in observed.workloads.values()]
    return sorted(pod["containers"][0]["image"] for pod in pods)


def test_a_changed_default_image_changes_nothing_that_runs() -> None:
    observed = settled(observed_of(), OLD)
    assert images(observed) == [OLD.worker_image]
    assert decide(observed, NEW).actions == ()


def test_a_new_revision_gets_the_new_image_and_the_old_one_keeps_its_own() -> None:
    observed = settled(observed_of(), OLD)
    changed = observed_of(engine={"maxNumSeqs": 7})
    assert changed.deployment is not None
    assert observed.deployment is not None
    spec = observed.deployment.model_copy(update={"spec": changed.deployment.spec})
    observed = replace(observed, deployment=spec)
    observed = done(observed, decide(observed, NEW))
    assert images(observed) == sorted([OLD.worker_image, NEW.worker_image])


def test_a_rollout_from_when_adapters_were_part_of_it_stays_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapters = [{"name": "sql", "uri": "hf://org/sql"}]
    with monkeypatch.context() as former:
        former.setattr(plan, "rollout_hash", plan._former_hash)
        observed = settled(observed_of(model={"uri": "hf://org/m", "adapters": adapters}), OLD)
    assert condition(observed, "RolloutComplete") == "True"
    assert decide(observed, NEW).actions == ()
    one_left = replace(observed, pods=observed.pods[:1])
    later = done(one_left, decide(one_left, NEW))
    assert condition(later, "PoolsReady") == "False"
    assert condition(later, "RolloutComplete") == "True"
