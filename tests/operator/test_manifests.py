"""The Kubernetes objects of a pool: golden files, real schemas, and a security property.

After a wanted change:  PYTHONPATH=tests/support python tests/operator/test_manifests.py
"""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployments import UNIFIED, deployment, deployments
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pod_security import violations

from penstock_contract.api import EngineType, InferenceDeployment
from penstock_operator.manifests import (
    Place,
    Settings,
    Unserved,
    Unsupported,
    deployment_objects,
    follower,
    for_cluster,
    group_objects,
    pool_objects,
    workload,
)
from penstock_operator.manifests.penstock import worker_arguments
from penstock_operator.manifests.sources import fetched_folder, wanted_model
from penstock_operator.plan import plan

names = st.lists(st.text("ab@.", min_size=1, max_size=3), min_size=1, max_size=3).map("/".join)

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
    "download": deployment(
        model={
            "uri": "hf://org/model",
            "revision": "v1",
            "secretRef": {"name": "hf-token"},
            "cache": {"claimName": "models"},
        },
    ),
    "bucket": deployment(
        model={
            "uri": "s3://models/llama",
            "serviceAccountName": "model-reader",
            "secretRef": {"name": "hf-token"},
            "adapters": [
                {"name": "sql", "uri": "gs://adapters/sql"},
                {"name": "law", "uri": "hf://org/law"},
            ],
        },
    ),
    "adapters": deployment(
        model={
            "uri": "hf://org/model",
            "secretRef": {"name": "hf-token"},
            "cache": {"claimName": "models"},
            "adapters": [
                {"name": "sql", "uri": "hf://org/sql-lora", "revision": "v2"},
                {"name": "org/law", "uri": "s3://bucket/law"},
                {"name": "mounted", "uri": "pvc://adapters/mine"},
                {"name": "image", "uri": "oci://registry/adapter:1"},
            ],
        },
    ),
    "vllm": deployment(
        {
            "name": "default",
            "replicas": 1,
            "resources": {"limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": 2}},
            "parallelism": {"tensor": 2},
        },
        model={"uri": "pvc://models/llama", "name": "llama", "aliases": ["org/llama"]},
        engine={"type": "VLLM", "dtype": "bfloat16", "maxModelLen": 8192},
    ),
    "spanning": deployment(
        {
            "name": "default",
            "replicas": 2,
            "resources": {"limits": {"nvidia.com/gpu": 8}},
            "parallelism": {"tensor": 8, "pipeline": 2, "nodes": 2},
        },
        model={"uri": "hf://org/model", "cache": {"claimName": "models"}},
        engine={"type": "VLLM"},
    ),
    "additions": deployment(
        {
            "name": "default",
            "replicas": 1,
            "resources": {"limits": {"cpu": "8"}, "claims": [{"name": "gpu"}]},
            "template": {
                "hostNetwork": True,
                "schedulerName": "volcano",
                "envFrom": [{"prefix": "NET_", "configMapRef": {"name": "fabric"}}],
                "envValueFrom": {"KEY": {"secretKeyRef": {"name": "keys", "key": "one"}}},
                "volumes": [
                    {"name": "certificates", "configMap": {"name": "company"}},
                    {"name": "mine", "persistentVolumeClaim": {"claimName": "models"}},
                ],
                "volumeMounts": [
                    {"name": "certificates", "mountPath": "/etc/ssl/certs", "readOnly": True}
                ],
                "initContainers": [
                    {
                        "name": "prepare",
                        "image": "tool:1",
                        "volumeMounts": [{"name": "mine", "mountPath": "/mine"}],
                    }
                ],
                "sidecars": [
                    {
                        "name": "log",
                        "image": "log:1",
                        "ports": [{"containerPort": 9000}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                        "securityContext": {"runAsUser": 20000},
                    }
                ],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
                "securityContext": {"fsGroup": 7},
                "containerSecurityContext": {
                    "runAsUser": 0,
                    "runAsNonRoot": False,
                    "capabilities": {"add": ["IPC_LOCK"]},
                },
            },
        },
        model={"uri": "hf://org/model", "cache": {"claimName": "models"}},
        engine={"type": "VLLM"},
    ),
    "disaggregated": deployment(
        {"name": "prefill", "role": "Prefill", "replicas": 1},
        {"name": "decode", "role": "Decode", "replicas": 2},
    ),
}


SETTINGS = Settings()


def objects(infd: InferenceDeployment) -> list[dict[str, Any]]:
    """Return all objects of a deployment, as for a first rollout."""
    found = [*deployment_objects(infd, SETTINGS).values()]
    for pool in plan(infd, {}).pools:
        found += pool_objects(pool, SETTINGS).values()
        workers = workload(infd, pool, SETTINGS, pool.spec.replicas)
        found.append(workers)
        if pool.spec.parallelism.nodes > 1:
            place = Place("leader", "10.0.0.1", rank=1)
            found += [
                *group_objects(pool, wanted=2),
                follower(pool, workers["spec"]["template"], place),
            ]
    return found


def pod(infd: InferenceDeployment) -> dict[str, Any]:
    """Return the pod spec of a deployment's first pool."""
    found = workload(infd, plan(infd, {}).pools[0], SETTINGS, 1)
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
        if found["kind"] == "PodMonitor":
            continue  # not one of Kubernetes' own
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
        made = pool_objects(planned, SETTINGS)
        workers = workload(infd, planned, SETTINGS, 1)["spec"]
        labels = workers["template"]["metadata"]["labels"]
        assert workers["selector"]["matchLabels"].items() <= labels.items()
        selector = made["Service"]["spec"]["selector"]
        assert selector.items() <= labels.items()
        assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == selector
        assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selector
        seen.append(tuple(sorted(selector.items())))
    assert len(set(seen)) == len(seen)


def test_a_user_cannot_take_a_pod_out_of_its_pool_by_a_label() -> None:
    pool = {"name": "default", "replicas": 1}
    infd = deployment({**pool, "template": {"labels": {"penstock.dev/pool": "other"}}})
    made = workload(infd, plan(infd, {}).pools[0], SETTINGS, 1)
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


def test_a_download_alone_sees_the_credentials_and_writes_the_cache() -> None:
    model = {"uri": "hf://org/m", "secretRef": {"name": "hf"}, "cache": {"claimName": "models"}}
    found = pod(deployment(model={**model, "revision": "v1"}))
    download, worker = found["initContainers"][0], found["containers"][0]
    secret = {"name": "hf", "key": "HF_TOKEN", "optional": False}
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}} in download["env"]
    assert not any("valueFrom" in variable for variable in worker["env"])
    assert download["args"][-2:] == ["--into", "/models/hf/org/m@v1"]
    assert worker["args"][:2] == ["--model", "/models/hf/org/m@v1"]
    assert found["volumes"][0]["persistentVolumeClaim"] == {
        "claimName": "models",
        "readOnly": False,
    }
    assert worker["volumeMounts"][0]["readOnly"] is True


def test_the_keys_of_a_bucket_are_all_that_its_download_gets() -> None:
    found = pod(deployment(model={"uri": "s3://bucket/m", "secretRef": {"name": "aws"}}))
    given = {v["name"]: v["valueFrom"]["secretKeyRef"]["optional"]
             for v in found["initContainers"][0]["env"] if "valueFrom" in v}  # fmt: skip
    assert {name for name, optional in given.items() if not optional} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    assert "HF_TOKEN" not in given


@pytest.mark.parametrize(("limit", "size"), [(None, "256Gi"), ("20Gi", "20Gi")])
def test_a_model_that_is_not_cached_cannot_fill_its_node(limit: str | None, size: str) -> None:
    limits = {"ephemeral-storage": limit} if limit else {}
    pool = {"name": "default", "replicas": 1, "resources": {"limits": limits}}
    found = pod(deployment(pool, model={"uri": "hf://org/m"}))
    assert found["volumes"][0]["emptyDir"] == {"sizeLimit": size}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["hf://", "s3://", "gs://"]), names, names),
        min_size=2, max_size=2, unique=True,
    )
)  # fmt: skip
def test_no_two_models_share_a_folder_of_a_cache(models: list[tuple[str, str, str]]) -> None:
    folders = set()
    for scheme, name, revision in models:
        try:
            folders.add(
                fetched_folder(
                    wanted_model(deployment(model={"uri": scheme + name, "revision": revision}))
                )
            )
        except Unsupported:
            return
    assert len(folders) == len(models)


def test_an_oci_image_is_mounted_without_a_download() -> None:
    found = pod(deployment(model={"uri": "oci://registry/model:1"}))
    assert found["volumes"][0]["image"]["reference"] == "registry/model:1"
    assert "initContainers" not in found


def test_an_image_may_carry_the_model_itself() -> None:
    infd = deployment(model={"uri": "file:///opt/m"}, engine={"image": "registry/worker:1"})
    worker = pod(infd)["containers"][0]
    assert worker["args"][:2] == ["--model", "/opt/m"]
    assert [mount["name"] for mount in worker["volumeMounts"]] == ["tmp"]


@pytest.mark.parametrize("uri", ["hf://../etc", "hf://a/.git", "s3://bucket/../x"])
def test_a_model_cannot_leave_its_volume(uri: str) -> None:
    with pytest.raises(Unsupported, match=r"spec\.model\.uri"):
        objects(deployment(model={"uri": uri}))


def test_an_older_api_version_stands_in_where_a_cluster_has_no_newer_one() -> None:
    budget = pool_objects(plan(deployment(), {}).pools[0], SETTINGS)["PodDisruptionBudget"]
    kind = "PodDisruptionBudget"
    assert for_cluster(budget, {f"policy/v1/{kind}", f"policy/v1beta1/{kind}"}) == budget
    assert for_cluster(budget, {f"policy/v1beta1/{kind}"})["apiVersion"] == "policy/v1beta1"
    with pytest.raises(Unserved, match=kind):
        for_cluster(budget, {"v1/Pod"})


def test_objects_are_plain_data_that_yaml_can_write() -> None:
    yaml.safe_dump(objects(deployment()))


@pytest.mark.parametrize(
    "spec",
    [
        {"engine": {"dtype": "float16"}},  # penstock-worker's --dtype does not know it
        {"model": {"uri": "pvc://m", "adapters": [{"name": "chat", "uri": "pvc://m/a"}]}},
        {"model": {"uri": "pvc://m", "adapters": [{"name": "a", "uri": "file://a"}]}},
        {  # the worker computes them on CPUs only
            "model": {"uri": "pvc://m", "adapters": [{"name": "a", "uri": "pvc://m/a"}]},
            "pools": [{"name": "p", "replicas": 1, "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        },
        {"pools": [{"name": "p", "replicas": 1, "parallelism": {"pipeline": 2}}]},
        {"engine": {"type": "VLLM", "kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]}},
        {"engine": {"kvTiers": [{"medium": "Disk", "capacity": "1Mi"}]}},
        {
            "engine": {"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]},
            "pools": [{**UNIFIED, "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        },
        {  # kubelet would evict it
            "engine": {"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]},
            "pools": [{**UNIFIED, "resources": {"limits": {"ephemeral-storage": "1Gi"}}}],
        },
        {"engine": {"type": "VLLM", "quantization": {"weights": "int8"}}},
        {  # what is handed over is found by the prefix cache's names
            "engine": {"prefixCaching": False},
            "pools": [
                {"name": "p", "role": "Prefill", "replicas": 1},
                {"name": "d", "role": "Decode", "replicas": 1},
            ],
        },
    ],
)
def test_what_the_worker_cannot_run_is_unsupported_too(spec: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        objects(deployment(**spec))


def test_quantised_weights_are_asked_of_the_worker() -> None:
    wanted = deployment(engine={"quantization": {"weights": "int8"}})
    arguments = worker_arguments(wanted)
    assert arguments[arguments.index("--quantization") + 1] == "int8"
    assert "--quantization" not in worker_arguments(deployment())


@pytest.mark.parametrize("engine", ["Penstock", "VLLM"])
def test_both_engines_are_asked_for_a_type_of_kv_in_the_same_words(engine: str) -> None:
    wanted = {"type": engine, "kvCacheDtype": "int8_per_token_head"}
    arguments = pod(deployment(engine=wanted))["containers"][0]["args"]
    assert arguments[arguments.index("--kv-cache-dtype") + 1] == "int8_per_token_head"
    plain = pod(deployment(engine={"type": engine}))["containers"][0]["args"]
    assert "--kv-cache-dtype" not in plain


@pytest.mark.parametrize(
    ("spec", "fix"),
    [
        ({"engine": {"kvCacheDtype": "fp8"}}, "use auto, bfloat16, int8_per_token_head, or"),
        ({"engine": {"kvCacheDtype": "bfloat16", "task": "Embed"}}, "keeps no KV"),
        (
            {
                "engine": {"kvCacheDtype": "int8_per_token_head"},
                "pools": [{**UNIFIED, "resources": {"limits": {"nvidia.com/gpu": 1}}}],
            },
            "use auto where a pool has GPUs",
        ),
    ],
)
def test_a_type_of_kv_that_our_engine_has_not_is_refused(spec: dict[str, Any], fix: str) -> None:
    with pytest.raises(Unsupported, match=rf"spec\.engine\.kvCacheDtype: .*{fix}"):
        pod(deployment(**spec))


def test_vllm_is_asked_for_types_that_are_its_own() -> None:
    asked = pod(deployment(engine={"type": "VLLM", "kvCacheDtype": "fp8"}))
    arguments = asked["containers"][0]["args"]
    assert arguments[arguments.index("--kv-cache-dtype") + 1] == "fp8"


def test_a_proposer_of_tokens_is_asked_of_the_worker() -> None:
    wanted = deployment(engine={"speculative": {"method": "ngram", "numTokens": 6}})
    arguments = worker_arguments(wanted)
    assert arguments[arguments.index("--speculative") + 1] == "ngram"
    assert arguments[arguments.index("--speculative-tokens") + 1] == "6"
    assert "--speculative" not in worker_arguments(deployment())


def pod_with_tier(resources: dict[str, Any] | None = None, **tier: Any) -> dict[str, Any]:
    """Return the spec of a pod whose engine has a tier of 16 GiB."""
    engine = {"kvTiers": [{"medium": "Disk", "capacity": "16Gi", **tier}]}
    wanted = deployment({**UNIFIED, "resources": resources or {}}, engine=engine)
    found = workload(wanted, plan(wanted, {}).pools[0], Settings(), 1)
    return dict(found["spec"]["template"]["spec"])


def test_a_tier_lies_in_a_bounded_folder_of_the_pod() -> None:
    found = pod_with_tier()
    (container,) = found["containers"]
    begin = container["args"].index("--kv-tier-disk")
    assert container["args"][begin : begin + 4] == [
        *("--kv-tier-disk", "/kv"),
        *("--kv-tier-disk-capacity", "16Gi"),
    ]
    assert {"name": "kv", "mountPath": "/kv"} in container["volumeMounts"]
    room = "17472Mi"  # a sixteenth more, and 64 MiB
    assert {"name": "kv", "emptyDir": {"sizeLimit": room}} in found["volumes"]
    assert container["resources"]["requests"]["ephemeral-storage"] == room
    assert "ephemeral-storage" not in container["resources"]["limits"]
    assert violations(found) == []


def test_what_a_pool_says_of_its_storage_stays() -> None:
    found = pod_with_tier({"limits": {"ephemeral-storage": "20Gi"}})
    asked = found["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"] == {"ephemeral-storage": "20Gi"}


def test_a_tier_on_a_claim_takes_nothing_of_the_node() -> None:
    found = pod_with_tier(claimName="kv-cache")
    volume = {"name": "kv", "persistentVolumeClaim": {"claimName": "kv-cache"}}
    assert volume in found["volumes"]
    assert "ephemeral-storage" not in found["containers"][0]["resources"]["requests"]


def test_without_a_tier_nothing_is_mounted() -> None:
    wanted = deployment()
    found = workload(wanted, plan(wanted, {}).pools[0], Settings(), 1)["spec"]["template"]["spec"]
    assert "/kv" not in str(found)


def test_what_a_model_is_for_is_told_to_the_worker() -> None:
    infd = deployment(engine={"task": "Embed"})
    arguments = pod(infd)["containers"][0]["args"]
    assert arguments[arguments.index("--task") + 1] == "embed"
    assert "--task" not in pod(deployment())["containers"][0]["args"]


@pytest.mark.parametrize(
    ("engine", "field"),
    [
        ({"quantization": {"weights": "int8"}}, "quantization"),
        ({"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]}, "kvTiers"),
    ],
)
def test_what_an_embedding_model_cannot_do_is_refused_by_field(
    engine: dict[str, Any], field: str
) -> None:
    with pytest.raises(Unsupported, match=field):
        pod(deployment(engine={"task": "Embed", **engine}))


def test_a_model_on_somebodys_machine_is_no_model_in_a_cluster() -> None:
    with pytest.raises(Unsupported):
        objects(deployment(model={"uri": "file:///home/me/model"}))


def test_only_gateways_of_known_namespaces_reach_a_worker() -> None:
    infd = deployment()
    policy = pool_objects(plan(infd, {}).pools[0], SETTINGS)["NetworkPolicy"]
    for peer in policy["spec"]["ingress"][0]["from"]:
        assert peer.get("namespaceSelector") != {}


def test_only_workers_of_the_deployment_pull_kv_from_each_other() -> None:
    pools = [{"name": n, "role": n.title(), "replicas": 1} for n in ("prefill", "decode")]
    policy = pool_objects(plan(deployment(pools=pools), {}).pools[0], SETTINGS)["NetworkPolicy"]
    http, kv = policy["spec"]["ingress"]
    workers = {"podSelector": {"matchLabels": {"penstock.dev/deployment": "chat"}}}
    assert (kv["from"], kv["ports"]) == ([workers], [{"protocol": "TCP", "port": 5600}])
    assert workers not in http["from"]
    policy = pool_objects(plan(deployment(pools=pools), {}).pools[0], SETTINGS, EngineType.VLLM)
    assert policy["NetworkPolicy"]["spec"]["ingress"][1:] == [{"from": [workers]}]


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / f"{name}.yaml").write_text(rendered(name))


def gpu_pool(gpus: int | str) -> dict[str, Any]:
    return {"name": "default", "replicas": 1, "resources": {"limits": {"nvidia.com/gpu": gpus}}}


def test_a_pool_with_gpus_gets_the_image_for_them_and_fails_without_one() -> None:
    (worker,) = pod(deployment(gpu_pool(1)))["containers"]
    assert worker["image"] == SETTINGS.worker_gpu_image
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    place = worker["args"].index("--device")
    assert worker["args"][place + 1] == "cuda"


def test_a_pool_without_gpus_computes_on_cpus_whatever_a_node_has() -> None:
    for infd in (deployment(), deployment(gpu_pool("0"))):
        (worker,) = pod(infd)["containers"]
        assert worker["image"] == SETTINGS.worker_image
        place = worker["args"].index("--device")
        assert worker["args"][place + 1] == "cpu"


def test_what_our_engine_cannot_do_with_gpus_is_refused_by_field() -> None:
    with pytest.raises(Unsupported, match=r"resources\.limits\[nvidia\.com/gpu\]: .*use 1"):
        pod(deployment(gpu_pool(2)))
    with pytest.raises(Unsupported, match=r"spec\.engine\.quantization\.weights: .*use none"):
        pod(deployment(gpu_pool(1), engine={"quantization": {"weights": "int8"}}))
