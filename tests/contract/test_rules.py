"""The CEL rules accept and refuse what they should, among them the rules about changes."""

from typing import Any

import cel
import pytest
import yaml
from pydantic import BaseModel

from penstock_contract.api import EnginePool, InferenceDeployment, Pool, Scaling
from penstock_contract.api.engine import Engine, Speculative
from penstock_contract.generate import generated
from penstock_contract.schema import Untranslatable, structural
from penstock_operator.validation import load_manifests

IMMUTABLE_ROLE = "self.role == oldSelf.role"


class Node(BaseModel):
    """A type inside itself."""

    inside: list["Node"]


def rule_texts(model: type[BaseModel]) -> list[str]:
    """Return the rules that a type carries."""
    extra: Any = model.model_config["json_schema_extra"]
    return [rule["rule"] for rule in extra["x-kubernetes-validations"]]


def holds(model: type[BaseModel], /, **values: Any) -> bool:
    """Say whether all rules of a type that need no older object hold."""
    rules = [rule for rule in rule_texts(model) if "oldSelf" not in rule]
    return all(cel.evaluate(rule, {"self": values}) is True for rule in rules)


def spec_holds(
    *roles: str,
    classes: tuple[dict[str, Any], ...] = (),
    task: str = "Auto",
    speculative: str = "none",
    adapters: tuple[dict[str, Any], ...] = (),
) -> bool:
    model = InferenceDeployment.model_fields["spec"].annotation
    assert isinstance(model, type)
    pools = [{"name": f"p{index}", "role": role} for index, role in enumerate(roles)]
    engine = {"task": task, "speculative": {"method": speculative}}
    served = {"adapters": list(adapters)}
    return holds(model, pools=pools, requestClasses=[*classes], engine=engine, model=served)


@pytest.mark.parametrize(
    ("values", "accepted"),
    [
        ({"replicas": 0}, True),
        ({"scaling": {}}, True),
        ({}, False),
        ({"replicas": 1, "scaling": {}}, False),
    ],
)
def test_a_pool_has_a_size_or_bounds(values: dict[str, Any], accepted: bool) -> None:
    assert holds(Pool, **values) is accepted


@pytest.mark.parametrize(("low", "accepted"), [(0, True), (3, True), (4, False)])
def test_bounds_are_in_order(low: int, accepted: bool) -> None:
    assert holds(Scaling, minReplicas=low, maxReplicas=3, schedules=[]) is accepted


@pytest.mark.parametrize(
    ("roles", "accepted"),
    [
        (("Unified", "Unified"), True),
        (("Prefill", "Decode", "Decode"), True),
        (("Prefill",), False),
        (("Decode",), False),
        (("Unified", "Decode"), False),
    ],
)
def test_pools_make_a_whole(roles: tuple[str, ...], accepted: bool) -> None:
    assert spec_holds(*roles) is accepted


@pytest.mark.parametrize(
    ("tiers", "caching", "task", "accepted"),
    [
        ([], False, "Embed", True),
        ([{"medium": "Disk"}], True, "Auto", True),
        ([{"medium": "Disk"}], False, "Auto", False),
        ([{"medium": "Disk"}], True, "Score", False),
    ],
)
def test_tiers_need_a_prefix_cache_and_a_model_that_generates(
    tiers: list[Any], caching: bool, task: str, accepted: bool
) -> None:
    assert holds(Engine, kvTiers=tiers, prefixCaching=caching, task=task) is accepted


def test_request_classes_have_their_own_names_and_one_default() -> None:
    def named(name: str, default: bool) -> dict[str, Any]:
        return {"name": name, "default": default}

    assert spec_holds("Unified", classes=(named("a", True), named("b", False)))
    assert not spec_holds("Unified", classes=(named("a", True), named("b", True)))
    assert not spec_holds("Unified", classes=(named("a", True), named("a", False)))


def test_a_role_never_changes() -> None:
    spec = EnginePool.model_fields["spec"].annotation
    assert isinstance(spec, type)
    assert IMMUTABLE_ROLE in rule_texts(Pool)
    assert IMMUTABLE_ROLE in rule_texts(spec)
    old = {"role": "Prefill"}
    assert cel.evaluate(IMMUTABLE_ROLE, {"self": old, "oldSelf": old}) is True
    assert cel.evaluate(IMMUTABLE_ROLE, {"self": {"role": "Decode"}, "oldSelf": old}) is False


def test_a_type_that_contains_itself_is_refused() -> None:
    with pytest.raises(Untranslatable, match="Node contains itself"):
        structural(Node.model_json_schema())


def test_no_default_is_an_empty_string() -> None:
    # Kubernetes 1.20 refuses such a CRD: `Invalid value: "null"`.
    def strings(found: Any) -> list[Any]:
        if isinstance(found, dict):
            return [text for inner in found.values() for text in strings(inner)]
        return [found]

    def check(found: Any) -> None:
        if isinstance(found, dict):
            assert "" not in strings(found.get("default"))
            for inner in found.values():
                check(inner)

    for path, content in generated().items():
        if path.startswith("crds/"):
            version = yaml.safe_load(content)["spec"]["versions"][0]
            check(version["schema"]["openAPIV3Schema"])


def test_the_whole_api_in_one_manifest_is_valid() -> None:
    found = load_manifests(WHOLE, "whole.yaml").objects[0]
    assert isinstance(found, InferenceDeployment)
    assert found.served_name == "qwen3-8b"


WHOLE = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: qwen3-8b}
spec:
  model:
    uri: hf://Qwen/Qwen3-8B
    revision: main
    name: qwen3-8b
    aliases: []
    secretRef: {name: hf-token}
    cache: {claimName: models}
    adapters: [{name: sql, uri: hf://org/sql-lora}]
  engine:
    type: Penstock
    image: registry.example.com/penstock-worker:1
    dtype: auto
    quantization: {weights: none}
    maxModelLen: 32768
    blockSize: 16
    maxNumSeqs: 256
    maxNumBatchedTokens: 8192
    prefixCaching: true
    speculative: {method: none, numTokens: 4}
    extraArgs: []
  pools:
  - name: prefill
    role: Prefill
    scaling: {minReplicas: 1, maxReplicas: 4}
    resources: {limits: {nvidia.com/gpu: 1}}
    parallelism: {tensor: 1}
    costPerHour: "2.10"
    template: {}
  - name: decode
    role: Decode
    scaling: {minReplicas: 1, maxReplicas: 8}
  disaggregation:
    mode: Auto
    minUncachedTokens: 512
    transfer: {leaseSeconds: 30}
  slo: {ttft: {quantile: "0.9", target: 1s}, tpot: {quantile: "0.9", target: 50ms}}
  autoscaling:
    policy: LittlesLaw
    behavior: {scaleUp: {maxStep: 4, window: 30s}, scaleDown: {maxStep: 1, window: 180s}}
    budget: {maxGPUs: 10}
    scaleToZero: {idle: 15m}
  routing: {policy: PrefixAware, retry: {attempts: 2, resumeStreams: true}}
  queue: {maxRequests: 5000, timeout: 30s, coldStartTimeout: 5m}
  requestClasses:
  - {name: interactive, priority: 100, weight: 4}
  - {name: standard, priority: 0, weight: 2, default: true}
  - {name: batch, priority: -10, weight: 1, queueTimeout: 10m}
  rollout: {maxSurge: 1, maxUnavailable: 0, canary: {weight: 10, pause: 5m}}
  drain: {timeout: 120s}
"""


@pytest.mark.parametrize("method", ["none", "ngram", "draft", "eagle", "eagle3", "mtp"])
def test_who_needs_a_draft_has_one_and_others_have_none(method: str) -> None:
    needs = method in ("draft", "eagle", "eagle3")
    assert holds(Speculative, method=method) is not needs
    assert holds(Speculative, method=method, draft={"uri": "hf://org/small"}) is needs


@pytest.mark.parametrize("task", ["Embed", "Score"])
def test_what_keeps_no_kv_has_nothing_that_needs_it(task: str) -> None:
    assert spec_holds("Unified", task=task)
    assert not spec_holds("Prefill", "Decode", task=task)
    assert not spec_holds("Unified", task=task, speculative="ngram")
    assert not spec_holds("Unified", task=task, adapters=({"name": "sql"},))
    assert spec_holds("Prefill", "Decode", task="Generate", speculative="ngram")
