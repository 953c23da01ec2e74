"""Whatever the CRD accepts is planned, or refused with the field that is at fault."""

from typing import Any

from crd_values import accepted
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pod_security import violations

from penstock_contract.api import InferenceDeployment
from penstock_contract.crd import RESOURCES, schema
from penstock_contract.labels import API_VERSION
from penstock_operator.manifests import (
    Settings,
    Unsupported,
    deployment_objects,
    pool_objects,
    workload,
)
from penstock_operator.plan import plan
from penstock_operator.validation import InvalidManifest, parse

RIGHTS = {
    "containerSecurityContext", "hostNetwork", "initContainers", "securityContext", "sidecars",
    "volumes",
}  # fmt: skip
"""Fields of a template by which a user gives pods more rights than the profile has."""
SPEC = schema(next(r for r in RESOURCES if r.kind == "InferenceDeployment"))["properties"]["spec"]


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw specs of the schema; most of them without what is refused anyway."""
    spec: dict[str, Any] = draw(accepted(SPEC))
    if draw(st.integers(1, 9)) != 9:
        tame = {"role": "Unified", "replicas": 1, "parallelism": {}, "resources": {}}
        pools = [{k: v for k, v in p.items() if k != "scaling"} for p in spec["pools"]]
        spec["pools"] = [{**pool, **tame} for pool in pools]
        spec["rollout"] = {"maxSurge": 1}
        spec["requestClasses"] = []
    return spec


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_an_accepted_spec_is_planned_or_refused_by_field(spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": API_VERSION,
        "kind": "InferenceDeployment",
        "metadata": {"name": "chat"},
        "spec": spec,
    }
    refused = told(body)
    event(refused.partition("[")[0] or "planned")
    assert refused == "" or refused.startswith("spec")


def told(body: dict[str, Any]) -> str:
    """Plan a deployment; return the field that is refused, or nothing."""
    try:
        infd = parse(body)
    except InvalidManifest as error:  # a rule, or a check that a schema cannot express
        return error.problems[0].path
    assert isinstance(infd, InferenceDeployment)
    assert deployment_objects(infd, Settings())
    for pool in plan(infd, {}).pools:
        assert pool_objects(pool, Settings())
        try:
            made = workload(infd, pool, Settings(), pool.spec.replicas)
        except Unsupported as error:
            return error.field
        template = pool.spec.template.model_dump(by_alias=True, exclude_defaults=True)
        if not template.keys() & RIGHTS:
            assert violations(made["spec"]["template"]["spec"]) == []
    return ""
