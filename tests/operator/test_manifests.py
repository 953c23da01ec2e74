"""The Kubernetes objects of a pool: golden files, real schemas, and a security property.

After a wanted change:  PYTHONPATH=tests/support python tests/operator/test_manifests.py
"""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployments import deployment, deployments
from hypothesis import HealthCheck, given, settings
from pod_security import violations

from penstock_contract.api import InferenceDeployment
from penstock_operator.manifests import Unsupported, pool_objects
from penstock_operator.plan import plan

GOLDEN = Path(__file__).parent / "golden"

CASES = {
    "minimal": deployment(),
    "full": deployment(
        {
            "name": "gpu",
            "scaling": {"minReplicas": 1, "maxReplicas": 4},
            "resources": {
                "requests": {"cpu": "1"},
                "limits": {"cpu": "2500m", "memory": "8Gi", "nvidia.com/gpu": 1},
            },
            "template": {
                "labels": {"team": "search"},
                "annotations": {"example.com/note": "x"},
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "priorityClassName": "high",
                "env": {"LOG": "1"},
            },
        },
        model={"uri": "pvc://models/a/b", "name": "org/llama", "aliases": ["llama"]},
        engine={"image": "registry/worker:1", "maxModelLen": 4096, "prefixCaching": False},
        rollout={"maxSurge": 0, "maxUnavailable": 2},
        drain={"timeout": "1m30s"},
    ),
    "disaggregated": deployment(
        {"name": "prefill", "role": "Prefill", "replicas": 1},
        {"name": "decode", "role": "Decode", "replicas": 2},
    ),
}


def objects(infd: InferenceDeployment) -> list[dict[str, Any]]:
    """Return all objects of a deployment's pools."""
    return [found for p in plan(infd, {}).pools for found in pool_objects(infd, p).values()]


def pod(infd: InferenceDeployment) -> dict[str, Any]:
    """Return the pod spec of a deployment's first pool."""
    found = pool_objects(infd, plan(infd, {}).pools[0])["Deployment"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def rendered(case: str) -> str:
    """Return a case as its golden file holds it."""
    plain = json.loads(json.dumps(objects(CASES[case])))
    return yaml.safe_dump_all(plain, sort_keys=True, width=100)


@pytest.mark.parametrize("case", CASES)
def test_the_objects_are_as_recorded(case: str) -> None:
    assert rendered(case) == (GOLDEN / f"{case}.yaml").read_text()


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_knows_every_field(case: str) -> None:
    for found in objects(CASES[case]):
        kubernetes_validate.validate(found, "1.31", strict=True)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(deployments())
def test_every_pod_meets_the_restricted_profile(infd: InferenceDeployment) -> None:
    for found in objects(infd):
        if found["kind"] == "Deployment":
            assert violations(found["spec"]["template"]["spec"]) == []


def test_the_profile_checker_itself_finds_what_is_wrong() -> None:
    good = pod(deployment())
    worker = good["containers"][0]
    root = {**worker, "securityContext": {**worker["securityContext"], "runAsUser": 0}}
    assert violations({**good, "containers": [root]}) == ["worker: uid below 10000"]
    assert violations({**good, "hostNetwork": True}) == ["hostNetwork is set"]
    open_worker = {**worker, "securityContext": {}}
    assert len(violations({**good, "containers": [open_worker]})) == 3
    host_path = [{"name": "host", "hostPath": {"path": "/"}}]
    assert violations({**good, "volumes": host_path}) == ["volume type hostPath"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(deployments())
def test_selectors_find_the_pods_of_their_own_pool_only(infd: InferenceDeployment) -> None:
    seen = []
    for planned in plan(infd, {}).pools:
        made = pool_objects(infd, planned)
        labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
        selector = made["Service"]["spec"]["selector"]
        assert selector.items() <= labels.items()
        assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == selector
        assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selector
        seen.append(tuple(sorted(selector.items())))
    assert len(set(seen)) == len(seen)


def test_a_user_cannot_take_a_pod_out_of_its_pool_by_a_label() -> None:
    pool = {"name": "default", "replicas": 1}
    infd = deployment({**pool, "template": {"labels": {"penstock.dev/pool": "other"}}})
    made = pool_objects(infd, plan(infd, {}).pools[0])["Deployment"]
    assert made["spec"]["template"]["metadata"]["labels"]["penstock.dev/pool"] == "default"


@pytest.mark.parametrize(
    ("cpu", "threads"), [("500m", "1"), ("1", "1"), ("2500m", "2"), (16, "16")]
)
def test_as_many_threads_as_whole_cores(cpu: str | int, threads: str) -> None:
    pool = {"name": "default", "replicas": 1, "resources": {"limits": {"cpu": cpu}}}
    environment = pod(deployment(pool))["containers"][0]["env"]
    assert environment == [{"name": "OMP_NUM_THREADS", "value": threads}]


def test_a_pod_lives_longer_than_its_drain() -> None:
    assert pod(deployment(drain={"timeout": "2m"}))["terminationGracePeriodSeconds"] == 130


def test_a_model_on_a_claim_is_mounted_read_only() -> None:
    found = pod(deployment(model={"uri": "pvc://models/a/b"}))
    claim = {"claimName": "models", "readOnly": True}
    assert found["volumes"][0]["persistentVolumeClaim"] == claim
    arguments = found["containers"][0]["args"]
    assert arguments[arguments.index("--model") + 1] == "/models/a/b"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"engine": {"type": "VLLM"}}, "spec.engine.type"),
        ({"model": {"uri": "hf://a/b"}}, "spec.model.uri"),
        ({"model": {"uri": "s3://a/b"}}, "spec.model.uri"),
        ({"model": {"uri": "oci://a/b"}}, "spec.model.uri"),
    ],
)
def test_what_is_not_built_is_named_by_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Unsupported) as caught:
        objects(deployment(**spec))
    assert caught.value.field == field


def test_objects_are_plain_data_that_yaml_can_write() -> None:
    yaml.safe_dump(objects(deployment()))


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"dtype": "float16"}},  # penstock-worker's --dtype does not know it
        {"model": {"uri": "pvc://m", "adapters": [{"name": "a", "uri": "pvc://m/a"}]}},
        {"pools": [{"name": "p", "replicas": 1, "parallelism": {"tensor": 2}}]},
    ],
)
def test_what_the_worker_cannot_run_is_unsupported_too(spec: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        objects(deployment(**spec))


def test_a_model_on_somebodys_machine_is_no_model_in_a_cluster() -> None:
    with pytest.raises(Unsupported):
        objects(deployment(model={"uri": "file:///home/me/model"}))


def test_only_gateways_of_known_namespaces_reach_a_worker() -> None:
    infd = deployment()
    policy = pool_objects(infd, plan(infd, {}).pools[0])["NetworkPolicy"]
    for peer in policy["spec"]["ingress"][0]["from"]:
        assert peer.get("namespaceSelector") != {}


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / f"{name}.yaml").write_text(rendered(name))
