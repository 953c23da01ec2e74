"""What newcomers write by mistake, often as another stack has it: each is told the way out."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from deployments import manifest

from penstock_operator.local.errors import UserError
from penstock_operator.local.manifest import check_supported, read_manifest

POOL: dict[str, Any] = {"name": "default", "replicas": 1}
GPU = "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"replicas": 2}, "spec.replicas: unknown field; did you mean spec.pools[].replicas?"),
        (
            {"autoscaling": {"minReplicas": 1}},
            "spec.autoscaling.minReplicas: unknown field; did you mean spec.pools[].scaling.",
        ),
        (
            {"model": {"uri": "hf://a/b", "image": "x"}},
            "spec.model.image: unknown field; did you mean spec.engine.image?",
        ),
        (
            {"engine": {"max_model_len": 8192}},
            "spec.engine.max_model_len: unknown field; did you mean maxModelLen?",
        ),
        ({"slo": {"ttft": "2s"}}, "spec.slo.ttft: must be an object with quantile, target, not"),
        (
            {"model": {"uri": "hf://a/b", "secretRef": "token"}},
            "spec.model.secretRef: must be an object with name, not 'token'",
        ),
        (
            {"autoscaling": {"scaleToZero": True}},
            "spec.autoscaling.scaleToZero: must be an object with idle, not True",
        ),
        ({"engine": None}, "spec.engine: is empty: give it a value, or take it out"),
        (
            {"engine": {"extraArgs": "--seed 3"}},
            "spec.engine.extraArgs: must be a list, each entry after a dash, not '--seed 3'",
        ),
        (
            {"engine": {"type": "VLLM", "extraArgs": ["--seed", "3", "--max-model-len 8192"]}},
            "spec.engine.extraArgs[2]: write --max-model-len=8192, or two entries",
        ),
        (
            {"autoscaling": {"scaleToZero": {"idle": "5m"}}},
            "use spec.pools[].scaling in place of replicas",
        ),
        (
            {"engine": {"speculative": {"model": "a/b"}}},
            "spec.engine.speculative.model: unknown field; known here: method, draft, numTokens",
        ),
        ({"queue": {"timeout": 30}}, "spec.queue.timeout: must be a duration like 30s"),
        ({"slo": {"ttft": {"target": 2}}}, "spec.slo.ttft.target: must be a duration like 30s"),
        (
            {"slo": {"ttft": {"quantile": 0.9}}},
            'quantile: must be a string: write it in quotes, "0',
        ),
        (
            {"rollout": {"canary": {"weight": 5, "pause": 60}}},
            "spec.rollout.canary.pause: must be a duration like 30s",
        ),
        ({"pools": []}, "spec.pools: must have 1 or more, not []"),
        ({"model": {"uri": "hf://a/b@v1"}}, "must be hf://ORG/NAME alone; a revision goes into"),
        ({"model": {"uri": "hf://a/b/c.gguf"}}, "spec.model.uri: must be hf://ORG/NAME alone"),
        ({"model": {"uri": "pvc:///models/a"}}, "must name a claim: pvc://CLAIM/FOLDER"),
    ],
)
def test_a_mistake_in_a_spec_is_told_the_way_out(
    spec: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert told in said(manifest(**spec), tmp_path)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (
            {"tolerations": []},
            "[0].tolerations: unknown field; did you mean spec.pools[].template.tolerations?",
        ),
        (
            {"template": {"nodeSelector": {"gpu": True}}},
            '[0].template.nodeSelector.gpu: must be a string: write it in quotes, "true"',
        ),
        ({"resources": None}, "[0].resources: is empty: give it a value, or take it out"),
        (
            {"resources": {"requests": {GPU: 1}}},
            f"[default].resources.requests[{GPU}]: leave it out, and set resources.limits[{GPU}]",
        ),
        (
            {"resources": {"requests": {GPU: 2}, "limits": {GPU: 1}}},
            f"[default].resources.requests[{GPU}]: leave it out",
        ),
        (
            {"resources": {"limits": {"rdma/hca": "500m"}}},
            "[default].resources.limits[rdma/hca]: 500m is no whole number",
        ),
        (
            {"resources": {"requests": {"memory": "8Gi"}, "limits": {"memory": "4Gi"}}},
            "[default].resources.requests[memory]: 8Gi is more than the limit, 4Gi",
        ),
        ({"template": {"labels": {"team": "search team"}}}, "[default].template.labels[team]: "),
        ({"template": {"labels": {"a b": "x"}}}, "[default].template.labels[a b]: must be called"),
        ({"template": {"annotations": {"/x": ""}}}, "[default].template.annotations[/x]: must be"),
        ({"template": {"nodeSelector": {"zone": "-"}}}, "[default].template.nodeSelector[zone]: "),
        ({"template": {"env": {"A=B": "x"}}}, "[default].template.env[A=B]: a variable's name"),
    ],
)
def test_a_mistake_in_a_pool_is_told_the_way_out(
    pool: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert f"spec.pools{told}" in said(manifest({**POOL, **pool}), tmp_path)


def test_a_name_that_kubernetes_refuses_may_still_be_the_models(tmp_path: Path) -> None:
    body = manifest()
    body["metadata"]["name"] = "qwen3-0.6b"
    assert "not 'qwen3-0.6b'; spec.model.name may have others" in said(body, tmp_path)


@pytest.mark.parametrize(
    "resources",
    [
        {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}},
        {"requests": {"cpu": "500m", GPU: "1"}, "limits": {"cpu": 1, GPU: 1}},
    ],
)
def test_what_an_api_server_takes_is_no_mistake(resources: dict[str, Any], tmp_path: Path) -> None:
    engine = {"type": "VLLM", "extraArgs": ["--seed", "3", "--x=a b", "a b"]}
    body = manifest({**POOL, "resources": resources}, engine=engine)
    assert check_supported(read_manifest(written(body, tmp_path)).deployments)


def test_metadata_that_kubernetes_takes_is_no_mistake(tmp_path: Path) -> None:
    long = "x" * 63
    template = {
        "labels": {"example.com/team": "", long: long, "a.b_c-d": "1"},
        "annotations": {"example.com/why": "because, of course!"},
        "env": {"with space": "x", "_": "", "LD.x-y": "="},
    }
    body = manifest({**POOL, "template": template})
    assert check_supported(read_manifest(written(body, tmp_path)).deployments)


def said(body: dict[str, Any], folder: Path) -> str:
    """Return why a manifest is refused."""
    with pytest.raises(UserError) as refused:
        check_supported(read_manifest(written(body, folder)).deployments)
    return str(refused.value)


def written(body: dict[str, Any], folder: Path) -> Path:
    """Write a manifest as a user has it."""
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(body))
    return path
