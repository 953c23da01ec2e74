"""What a pool's template adds to its pods: put in its place, or refused by field."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployments import deployment

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.local.manifest import left_to_clusters
from penstock_operator.manifests import (
    Place,
    Settings,
    Unsupported,
    follower,
    pods_for_cluster,
    workload,
)
from penstock_operator.manifests.collisions import CONTAINERS, FOLDERS, PORTS, VOLUMES
from penstock_operator.manifests.versions import CLAIMS, SIDECARS
from penstock_operator.plan import plan, rollout_hash
from penstock_operator.scaling.spec import scaling_spec
from penstock_operator.validation import InvalidManifest, parse

GOLDEN = Path(__file__).parent / "golden"
Object = dict[str, Any]
SIDECAR = {"name": "log", "image": "log:1"}
CLAIM = {"name": "gpu", "resourceClaimTemplateName": "one-gpu"}


def planned(
    template: Object | None = None, *, pool: Object | None = None, **spec: Any
) -> tuple[InferenceDeployment, EnginePool]:
    found = {"name": "default", "replicas": 1, "template": template or {}, **(pool or {})}
    infd = deployment(found, **spec)
    return infd, plan(infd, {}).pools[0]


def made(template: Object | None = None, *, pool: Object | None = None, **spec: Any) -> Object:
    """Return the planned Deployment."""
    infd, wanted = planned(template, pool=pool, **spec)
    return workload(infd, wanted, Settings(worker_token_secret="token"), 1)


def pod(template: Object | None = None, **spec: Any) -> Object:
    found: Object = made(template, **spec)["spec"]["template"]["spec"]
    return found


def worker(found: Object) -> Object:
    own: Object = next(one for one in found["containers"] if one["name"] == "worker")
    return own


def test_a_pool_that_was_stored_before_keeps_its_revision() -> None:
    """The hash is what the version before these fields made of it."""
    template = {
        "labels": {"team": "search"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "imagePullSecrets": [{"name": "pull"}],
        "env": {"LOG": "1"},
        "priorityClassName": "high",
    }
    limits = {"limits": {"cpu": "2", "nvidia.com/gpu": 1}}
    defaults: Object = {
        "volumes": [], "volumeMounts": [], "initContainers": [], "sidecars": [], "envFrom": [],
        "envValueFrom": {}, "resourceClaims": [], "topologySpreadConstraints": [],
        "hostNetwork": False,
    }  # fmt: skip
    for more in ({}, defaults):
        pool = {"name": "default", "replicas": 2, "template": template | more, "resources": limits}
        infd = deployment(pool)
        assert rollout_hash(infd, infd.spec.pools[0]) == "0ddb0415205c20d6"


@pytest.mark.parametrize(
    "template",
    [
        {"volumes": [{"name": "a", "emptyDir": {}}]},
        {"sidecars": [SIDECAR]},
        {"initContainers": [SIDECAR]},
        {"hostNetwork": True},
        {"securityContext": {"fsGroup": 1}},
        {"envValueFrom": {"A": {"fieldRef": {"fieldPath": "spec.nodeName"}}}},
    ],
)
def test_what_is_added_is_a_new_revision(template: Object) -> None:
    assert planned(template)[1].spec.rollout_hash != planned()[1].spec.rollout_hash


def test_what_is_null_is_not_there() -> None:
    """An API server need not keep it, and what is planned must be what is stored."""
    nulls = {"securityContext": {"runAsUser": None}, "sidecars": [{**SIDECAR, "args": None}]}
    _, found = planned(nulls)
    assert EnginePool.model_validate(found.to_json()).spec == found.spec
    assert "None" not in str(found.spec.template.security_context)
    assert pod(nulls)["securityContext"]["runAsUser"] == 10001


def test_the_worker_s_own_variables_win_over_those_of_whole_secrets() -> None:
    template = {
        "env": {"OMP_NUM_THREADS": "3"},
        "envValueFrom": {"HOME": {"configMapKeyRef": {"name": "c", "key": "home"}}},
        "envFrom": [{"secretRef": {"name": "all"}}],
    }
    found = worker(
        pod(template, engine={"type": "VLLM"}, pool={"resources": {"limits": {"cpu": 8}}})
    )
    env = {one["name"]: one for one in found["env"]}
    assert len(env) == len(found["env"])
    assert env["OMP_NUM_THREADS"]["value"] == "3"
    assert env["HOME"] == {
        "name": "HOME",
        "valueFrom": {"configMapKeyRef": {"name": "c", "key": "home"}},
    }
    assert env["VLLM_API_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "token"
    assert found["envFrom"] == [{"secretRef": {"name": "all"}}]


def test_what_downloads_the_model_sees_the_same_certificates_and_proxies() -> None:
    template = {
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
        "envValueFrom": {"HTTPS_PROXY": {"secretKeyRef": {"name": "proxy", "key": "url"}}},
    }
    (download,) = pod(template, model={"uri": "hf://org/model"})["initContainers"]
    assert {"name": "ca", "mountPath": "/etc/ca"} in download["volumeMounts"]
    assert "HTTPS_PROXY" in [one["name"] for one in download["env"]]


def test_root_is_root_in_all_containers_of_a_pod_that_may_be() -> None:
    template = {"securityContext": {"runAsUser": 0, "runAsNonRoot": False}, "sidecars": [SIDECAR]}
    found = pod(template, model={"uri": "hf://org/model"})
    for container in (*found["initContainers"], *found["containers"]):
        assert container["securityContext"]["runAsNonRoot"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_constraint_without_a_selector_counts_the_workers_of_its_revision() -> None:
    own = {"labelSelector": {"matchLabels": {"a": "b"}}}
    template = {"topologySpreadConstraints": [{"topologyKey": "zone"}, own]}
    found = made(template)["spec"]
    first, second = found["template"]["spec"]["topologySpreadConstraints"]
    assert first["labelSelector"] == found["selector"]
    assert second == own


def test_sidecars_stay_beside_the_worker_where_a_cluster_knows_none_that_begin_first() -> None:
    template = {"sidecars": [SIDECAR], "initContainers": [{"name": "prepare", "image": "p:1"}]}
    found = made(template)
    assert pods_for_cluster(found, "default", {SIDECARS}) == found
    names = [one["name"] for one in found["spec"]["template"]["spec"]["initContainers"]]
    assert names == ["log", "prepare"]
    older = pods_for_cluster(found, "default", set())["spec"]["template"]["spec"]
    assert [one["name"] for one in older["initContainers"]] == ["prepare"]
    assert [one["name"] for one in older["containers"]] == ["worker", "log"]
    assert "restartPolicy" not in str(older)
    alone = pods_for_cluster(made({"sidecars": [SIDECAR]}), "default", set())
    assert "initContainers" not in alone["spec"]["template"]["spec"]


def test_followers_have_what_their_leader_has() -> None:
    template = {
        "volumes": [{"name": "kernels", "emptyDir": {}}],
        "volumeMounts": [{"name": "kernels", "mountPath": "/tmp/.cache"}],
        "sidecars": [SIDECAR],
        "hostNetwork": True,
        "resourceClaims": [CLAIM],
        "envFrom": [{"configMapRef": {"name": "fabric"}}],
    }
    over = {"tensor": 2, "nodes": 2}
    pool = {"parallelism": over, "resources": {"claims": [{"name": "gpu"}]}}
    infd, wanted = planned(template, pool=pool, engine={"type": "VLLM"})
    leader = workload(infd, wanted, Settings(), 1)["spec"]["template"]
    second = follower(wanted, leader, Place("x", "10.0.0.1", 1))["spec"]
    for field in ("volumes", "initContainers", "hostNetwork", "resourceClaims"):
        assert second[field] == leader["spec"][field]
    for field in ("volumeMounts", "envFrom", "resources", "securityContext"):
        assert worker(second)[field] == worker(leader["spec"])[field]
    older = pods_for_cluster(workload(infd, wanted, Settings(), 1), "default", {CLAIMS[0]})["spec"][
        "template"
    ]
    second = follower(wanted, older, Place("x", "10.0.0.1", 1))["spec"]
    assert [one["name"] for one in second["containers"]] == ["worker", "log"]


WRONG: list[tuple[Object, str]] = [
    ({"volumes": [{"name": "model"}]}, "template.volumes[0].name"),
    ({"volumes": [{"name": "adapter-7"}]}, "template.volumes[0].name"),
    ({"volumes": [{"name": "a"}, {"name": "a"}]}, "template.volumes"),
    ({"volumeMounts": [{"name": "b", "mountPath": "/b"}]}, "template.volumeMounts[0].name"),
    ({"sidecars": [{**SIDECAR, "name": "worker"}]}, "template.sidecars[0].name"),
    ({"sidecars": [{**SIDECAR, "name": "download"}]}, "template.sidecars[0].name"),
    ({"sidecars": [SIDECAR], "initContainers": [SIDECAR]}, "template"),
    (
        {"sidecars": [{**SIDECAR, "ports": [{"containerPort": 8000}]}]},
        "template.sidecars[0].ports[0].containerPort",
    ),
    (
        {"sidecars": [{**SIDECAR, "ports": [{"containerPort": 9, "name": "http"}]}]},
        "template.sidecars[0].ports[0].name",
    ),
    (
        {"sidecars": [{**SIDECAR, "volumeMounts": [{"name": "kv", "mountPath": "/a"}]}]},
        "template.sidecars[0].volumeMounts[0].name",
    ),
    (
        {"initContainers": [{**SIDECAR, "restartPolicy": "Always"}]},
        "template.initContainers[0].restartPolicy",
    ),
    ({"env": {"VLLM_API_KEY": "x"}}, "template.env[VLLM_API_KEY]"),
    (
        {"env": {"A": "x"}, "envValueFrom": {"A": {"fieldRef": {"fieldPath": "x"}}}},
        "template.envValueFrom[A]",
    ),
    ({"resourceClaims": [CLAIM]}, "template.resourceClaims[0]"),
    ({"securityContext": {"runAsUser": 0}}, "template.securityContext.runAsUser"),
    ({"containerSecurityContext": {"runAsUser": 0}}, "template.containerSecurityContext.runAsUser"),
    (
        {"sidecars": [{**SIDECAR, "securityContext": {"runAsUser": 0}}]},
        "template.sidecars[0].securityContext.runAsUser",
    ),
    (
        {"containerSecurityContext": {"privileged": True}},
        "template.containerSecurityContext.privileged",
    ),
]


@pytest.mark.parametrize(("template", "field"), WRONG, ids=[field for _, field in WRONG])
def test_what_cannot_be_is_refused_by_field(template: Object, field: str) -> None:
    with pytest.raises(Unsupported) as refused:
        pod(template)
    assert refused.value.field == f"spec.pools[default].{field}"


@pytest.mark.parametrize(
    "path",
    ["/models", "/models/x", "/adapters/0", "/kv/", "/dev", "/", "//models", "/tmp", "/a/../b"],
)
def test_a_mount_hides_nothing_of_penstocks(path: str) -> None:
    mounts = [{"name": "a", "mountPath": path}]
    with pytest.raises(Unsupported, match=r"template\.volumeMounts\[0\]\.mountPath"):
        pod({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": mounts})


@pytest.mark.parametrize("path", ["/tmp/.cache", "/modelsx", "/opt/models", "/etc/ssl/certs"])
def test_a_mount_beside_them_is_right(path: str) -> None:
    mounts = [{"name": "a", "mountPath": path}]
    found = pod({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": mounts})
    assert mounts[0] in worker(found)["volumeMounts"]


def test_reserved_is_whatever_penstock_itself_puts_into_a_pod() -> None:
    specs = [
        document["spec"]["template"]["spec"]
        for file in GOLDEN.glob("*.yaml")
        if file.stem != "additions"
        for document in yaml.safe_load_all(file.read_text())
        if document["kind"] == "Deployment"
    ]
    for spec in specs:
        assert all(VOLUMES.fullmatch(one["name"]) for one in spec["volumes"])
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            assert CONTAINERS.fullmatch(container["name"])
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert all(p == "/tmp" or p.startswith(FOLDERS) for p in paths)
            ports = {port["containerPort"]: port["name"] for port in container.get("ports", [])}
            assert ports.items() <= PORTS.items()


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ({"envFrom": [{"prefix": "A"}]}, "spec.pools[0].template.envFrom[0]"),
        ({"envValueFrom": {"A": {}}}, "spec.pools[0].template.envValueFrom[A]"),
        ({"resourceClaims": [{"name": "a"}]}, "spec.pools[0].template.resourceClaims[0]"),
    ],
)
def test_a_reference_names_one_thing(template: Object, path: str) -> None:
    infd, _ = planned()
    body = infd.to_json()
    body["spec"]["pools"][0]["template"] = template
    with pytest.raises(InvalidManifest) as refused:
        parse(body)
    assert [(p.path, "exactly one" in p.message) for p in refused.value.problems] == [(path, True)]


def test_gpus_of_claims_are_counted_as_what_the_engine_is_spread_over() -> None:
    template = {"resourceClaims": [CLAIM]}
    claims = {"claims": [{"name": "gpu", "request": "whole"}]}
    pool = {"resources": claims, "parallelism": {"tensor": 4, "pipeline": 2, "nodes": 2}}
    infd, wanted = planned(template, pool=pool, engine={"type": "VLLM"})
    assert wanted.spec.gpus == 8
    assert [bounds.gpus for bounds in scaling_spec(infd, 60.0).pools] == [8]
    found = workload(infd, wanted, Settings(), 1)["spec"]["template"]["spec"]
    assert worker(found)["resources"]["claims"] == claims["claims"]
    assert found["resourceClaims"] == [CLAIM]
    both = {**claims, "limits": {"nvidia.com/gpu": 2}}  # the claim then is of something else
    assert planned(template, pool={"resources": both})[1].spec.gpus == 2
    with pytest.raises(Unsupported, match=re.escape("resources.claims")):
        pod(template, pool={"resources": claims})


def test_claims_need_a_cluster_that_serves_them() -> None:
    template = {"resourceClaims": [CLAIM]}
    pool = {"resources": {"claims": [{"name": "gpu"}]}}
    found = made(template, pool=pool, engine={"type": "VLLM"})
    for version in CLAIMS:
        assert pods_for_cluster(found, "default", {version, SIDECARS}) == found
    with pytest.raises(Unsupported, match=re.escape("resource.k8s.io")):
        pods_for_cluster(found, "default", {SIDECARS})


def test_what_only_pods_have_is_named_on_one_machine() -> None:
    infd, _ = planned({"env": {"A": "b"}, "sidecars": [SIDECAR], "hostNetwork": True})
    assert left_to_clusters([infd]) == [
        "InferenceDeployment chat: spec.pools[default].template.sidecars is left to clusters"
    ]
    assert left_to_clusters([planned()[0]]) == []
