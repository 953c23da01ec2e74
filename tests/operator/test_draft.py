"""A draft model in the manifests: fetched or mounted, and named to the workers that decode."""

from pathlib import Path
from typing import Any

import pytest
from deployments import deployment

from penstock_contract.api import InferenceDeployment, Role
from penstock_operator.local.errors import UserError
from penstock_operator.local.manifest import missing_model, read_manifest
from penstock_operator.manifests import Settings, Unsupported, workload
from penstock_operator.plan import plan

SPLIT: list[dict[str, Any]] = [
    {"name": "p", "role": "Prefill", "replicas": 1},
    {"name": "d", "role": "Decode"},
]
FLAGS = ("--speculative", "--speculative-model", "--speculative-quantization")


def guessing(
    *pools: dict[str, Any], uri: str = "hf://org/small", **engine: Any
) -> InferenceDeployment:
    draft = {"uri": uri, "revision": "v2", "weights": "int8"}
    speculative = {"method": "draft", "draft": draft, "numTokens": 5}
    return deployment(*pools, engine={"speculative": speculative, **engine})


def pods(wanted: InferenceDeployment) -> dict[Role, dict[str, Any]]:
    """Return the pod spec of each pool, by its role."""
    return {
        pool.spec.role: workload(wanted, pool, Settings(), 1)["spec"]["template"]["spec"]
        for pool in plan(wanted, {}).pools
    }


def flags(pod: dict[str, Any]) -> dict[str, str]:
    arguments = pod["containers"][0]["args"]
    return {flag: arguments[arguments.index(flag) + 1] for flag in FLAGS if flag in arguments}


def test_a_draft_is_fetched_beside_the_model_and_named_to_the_worker() -> None:
    (pod,) = pods(guessing()).values()
    folder = "/draft/hf/org/small@v2"
    assert flags(pod) == dict(zip(FLAGS, ("draft", folder, "int8"), strict=True))
    (fetch,) = pod["initContainers"]
    assert fetch["name"] == "download-draft"
    assert fetch["args"] == ["hf://org/small", "--revision", "v2", "--into", folder]
    mounts = pod["containers"][0]["volumeMounts"]
    assert {"name": "draft", "mountPath": "/draft", "readOnly": True} in mounts


def test_a_draft_on_a_claim_is_mounted() -> None:
    (pod,) = pods(guessing(uri="pvc://drafts/small")).values()
    assert flags(pod)["--speculative-model"] == "/draft/small"
    assert "initContainers" not in pod
    claims = [one.get("persistentVolumeClaim", {}).get("claimName") for one in pod["volumes"]]
    assert "drafts" in claims


def test_workers_that_only_compute_prompts_have_no_draft() -> None:
    found = pods(guessing(*SPLIT))
    assert flags(found[Role.DECODE])
    assert not flags(found[Role.PREFILL])
    assert "initContainers" not in found[Role.PREFILL]
    assert all(volume["name"] != "draft" for volume in found[Role.PREFILL]["volumes"])


@pytest.mark.parametrize(
    ("pool", "engine"),
    [
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, {}),
        ({"parallelism": {"tensor": 2}}, {}),
    ],
    ids=["gpu", "tensor"],
)
def test_where_no_draft_can_guess_it_is_refused_by_name(
    pool: dict[str, Any], engine: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported) as refused:
        pods(guessing({"name": "p", "replicas": 1, **pool}, **engine))
    assert refused.value.field == "spec.engine.speculative.method"


@pytest.mark.parametrize("method", ["eagle", "mtp"])
def test_heads_that_only_vllm_computes_are_refused_by_name(method: str) -> None:
    draft = {} if method == "mtp" else {"draft": {"uri": "hf://org/head"}}
    wanted = deployment(engine={"speculative": {"method": method, **draft}})
    with pytest.raises(Unsupported, match=r"engine\.type VLLM") as refused:
        pods(wanted)
    assert refused.value.field == "spec.engine.speculative.method"


@pytest.mark.parametrize(
    ("pool", "engine", "fix"),
    [
        ({"resources": {"limits": {"nvidia.com/gpu": 1}}}, {}, "where a pool has GPUs"),
        ({"parallelism": {"tensor": 2}}, {}, r"parallelism\.tensor above 1"),
        ({"role": "Decode"}, {}, "with Prefill and Decode pools"),
        ({}, {"kvTiers": [{"medium": "Disk", "capacity": "1Gi"}]}, r"with spec\.engine\.kvTiers"),
    ],
    ids=["gpu", "tensor", "decode", "tiers"],
)
def test_where_no_head_can_guess_it_is_refused_by_name(
    pool: dict[str, Any], engine: dict[str, Any], fix: str
) -> None:
    speculative = {"method": "eagle3", "draft": {"uri": "hf://org/head"}}
    split = [{"name": "f", "role": "Prefill", "replicas": 1}] if "role" in pool else []
    infd = deployment(
        {"name": "p", "replicas": 1, **pool}, *split, engine={"speculative": speculative, **engine}
    )
    with pytest.raises(Unsupported, match=fix) as refused:
        pods(infd)
    assert refused.value.field == "spec.engine.speculative.method"


def test_a_head_is_named_to_the_worker() -> None:
    draft = {"uri": "hf://org/head"}
    (pod,) = pods(deployment(engine={"speculative": {"method": "eagle3", "draft": draft}})).values()
    assert flags(pod) == dict(zip(FLAGS, ("eagle3", "/draft/hf/org/head@main"), strict=False))


def test_a_head_has_no_tokenizer_and_is_no_model(tmp_path: Path) -> None:
    for folder in ("model", "head"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").touch()
    draft = {"uri": f"file://{tmp_path}/head"}
    speculative = {"method": "eagle3", "draft": draft}
    model = {"uri": f"file://{tmp_path}/model"}
    wanted = deployment(model=model, engine={"type": "VLLM", "speculative": speculative})
    assert missing_model(wanted) == ""
    (tmp_path / "head" / "config.json").unlink()
    assert "(missing: config.json)" in missing_model(wanted)


def test_a_draft_that_is_not_on_this_machine_is_told(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / file).touch()
    manifest = tmp_path / "chat.yaml"
    manifest.write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceDeployment\nmetadata: {name: chat}\n"
        "spec:\n  model: {uri: 'file://./model'}\n  pools: [{name: default, replicas: 1}]\n"
        "  engine:\n    speculative: {method: draft, draft: {uri: 'file://./small'}}\n"
    )
    (wanted,) = read_manifest(manifest).deployments
    draft = wanted.spec.engine.speculative.draft
    assert draft is not None
    assert draft.uri == f"file://{tmp_path}/small"
    found = missing_model(wanted)
    assert found.startswith(f"spec.engine.speculative.draft.uri: there is no model in {tmp_path}")
    (tmp_path / "small").symlink_to(model)
    assert missing_model(wanted) == ""


def test_a_method_without_its_draft_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "chat.yaml"
    manifest.write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceDeployment\nmetadata: {name: chat}\n"
        "spec:\n  model: {uri: 'file://./model'}\n  pools: [{name: default, replicas: 1}]\n"
        "  engine: {speculative: {method: draft}}\n"
    )
    with pytest.raises(UserError, match="methods draft, eagle and eagle3 need a draft"):
        read_manifest(manifest)
