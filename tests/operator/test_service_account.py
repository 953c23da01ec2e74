"""Workers that run as a ServiceAccount of the user's, for its identity in a cloud."""

from typing import Any

import pytest
from deployments import deployment
from pydantic import ValidationError

from penstock_contract.api import InferenceDeployment
from penstock_operator.cluster.actions import WriteStatus
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.observed import Gateways, Observed
from penstock_operator.manifests import Settings, pool_objects, workload
from penstock_operator.manifests.pods import pod_template
from penstock_operator.plan import plan, rollout_hash

BUCKET = {"uri": "s3://models/llama", "serviceAccountName": "model-reader"}
MISSING = (
    'pods "chat-default-1a2b3c4d-5d8f7-" is forbidden: error looking up service account '
    'default/model-reader: serviceaccount "model-reader" not found'
)


def pod(infd: InferenceDeployment, settings: Settings | None = None) -> dict[str, Any]:
    template = pod_template(infd, plan(infd, {}).pools[0], settings or Settings())
    spec: dict[str, Any] = template["spec"]
    return spec


def test_workers_run_as_it_and_without_a_token_of_kubernetes() -> None:
    found = pod(deployment(model=BUCKET))
    assert found["serviceAccountName"] == "model-reader"
    assert found["automountServiceAccountToken"] is False
    assert pod(deployment())["serviceAccountName"] == "chat-default"


def test_it_is_never_written_to() -> None:
    infd = deployment(model=BUCKET)
    account = pool_objects(plan(infd, {}).pools[0], Settings())["ServiceAccount"]
    assert account["metadata"]["name"] == "chat-default"


def test_the_installations_pull_secrets_come_along() -> None:
    registry = Settings(image_pull_secrets=("registry",))
    assert pod(deployment(model=BUCKET), registry)["imagePullSecrets"] == [{"name": "registry"}]
    own = {"name": "default", "replicas": 1, "template": {"imagePullSecrets": [{"name": "mine"}]}}
    assert pod(deployment(own, model=BUCKET), registry)["imagePullSecrets"] == [{"name": "mine"}]
    assert "imagePullSecrets" not in pod(deployment(model=BUCKET))


def test_a_secret_beside_it_needs_no_keys_of_the_bucket() -> None:
    def needed(**model: Any) -> set[str]:
        found = pod(deployment(model={**model, "uri": "s3://m", "secretRef": {"name": "some"}}))
        env = found["initContainers"][0]["env"]
        keys = (one["valueFrom"]["secretKeyRef"] for one in env if "valueFrom" in one)
        return {key["key"] for key in keys if not key["optional"]}

    assert needed() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert needed(serviceAccountName="model-reader") == set()


def test_another_one_is_another_revision() -> None:
    def revision(name: str | None) -> str:
        infd = deployment(model={"uri": "s3://m", **({"serviceAccountName": name} if name else {})})
        return rollout_hash(infd, infd.spec.pools[0])

    assert len({revision(None), revision("a"), revision("b")}) == 3


@pytest.mark.parametrize("name", ["", "Model", "-a", "a/b", "a" * 254])
def test_what_is_no_name_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(ValidationError, match="serviceAccountName"):
        deployment(model={"uri": "s3://m", "serviceAccountName": name})


def test_one_that_is_missing_is_told_with_what_to_do() -> None:
    infd = deployment(model=BUCKET)
    (pool,) = plan(infd, {}).pools
    made = workload(infd, pool, Settings(), 2)
    made["metadata"] |= {"uid": "w", "resourceVersion": "1"}
    failure = {"type": "ReplicaFailure", "status": "True", "message": MISSING}
    made["status"] = {"conditions": [{**failure, "reason": "FailedCreate"}]}
    raw = infd.to_json()
    raw["metadata"] |= {"uid": "i", "resourceVersion": "1", "generation": 1}
    metadata = pool.metadata.model_copy(update={"uid": "p", "resource_version": "1"})
    pools = {pool.metadata.name: pool.model_copy(update={"metadata": metadata})}
    seen = Observed(
        raw=raw, deployment=InferenceDeployment.model_validate(raw), invalid="", pools=pools,
        children={}, workloads={made["metadata"]["name"]: made}, pods=(), gateways=Gateways(),
        served=frozenset(),
    )  # fmt: skip
    written = [a for a in decide(seen, Settings()).actions if isinstance(a, WriteStatus)]
    (status,) = (action.status for action in written if action.kind == "InferenceDeployment")
    ready = next(one for one in status["conditions"] if one["type"] == "PoolsReady")
    assert ready["reason"] == "PodsFailing"
    assert MISSING in ready["message"]
    assert "correct spec.model.serviceAccountName" in ready["message"]
