"""Stored objects that this version cannot read are told in words."""

from typing import Any

from deployments import deployment, manifest

from penstock_operator.cluster.reading import read_deployment, read_pools, read_status, refreshed
from penstock_operator.plan import plan

STORED = {**manifest(), "metadata": {"name": "chat", "uid": "1", "resourceVersion": "7"}}


def stored_pool(**spec: Any) -> dict[str, Any]:
    body = plan(deployment(), {}).pools[0].to_json()
    return {**body, "spec": {**body["spec"], **spec}}


def test_a_spec_that_breaks_a_rule_of_the_crd_is_told_by_field() -> None:
    twice = [{"name": "a", "replicas": 1, "scaling": {"minReplicas": 1, "maxReplicas": 2}}]
    found, wrong = read_deployment({**STORED, "spec": {**STORED["spec"], "pools": twice}})
    assert found is None
    assert "spec.pools" in wrong


def test_fields_of_a_newer_version_are_left_out_as_the_api_server_adds_their_defaults() -> None:
    pools = [
        {**pool, "mood": "good", "template": {"hats": [], "labels": {"a": "b"}}}
        for pool in STORED["spec"]["pools"]
    ]
    found, wrong = read_deployment({**STORED, "spec": {**STORED["spec"], "pools": pools}})
    assert wrong == ""
    assert found is not None
    assert found.spec.pools[0].template.labels == {"a": "b"}
    assert read_pools([stored_pool(mood="good")])[1] == ""
    status = {"poolsSummary": "1/1", "mood": "good", "conditions": []}
    known = read_status({**STORED, "status": status})
    assert known is not None
    assert known.pools_summary == "1/1"


def test_fields_that_an_older_version_had_are_left_out_too() -> None:
    """An API server prunes them as it reads; before its types are upgraded, they are there."""
    spec = {**STORED["spec"], "routing": {"policy": "LeastLoad", "prefixIndex": "Auto"}}
    spec["disaggregation"] = {"transfer": {"leaseSeconds": 60, "onFailure": "Recompute"}}
    found, wrong = read_deployment({**STORED, "spec": spec})
    assert wrong == ""
    assert found is not None
    assert found.spec.routing.policy == "LeastLoad"
    assert found.spec.disaggregation.transfer.lease_seconds == 60


def test_another_mistake_beside_a_newer_field_is_still_told() -> None:
    pools = [{"name": "a", "mood": "good", "replicas": "two"}]
    found, wrong = read_deployment({**STORED, "spec": {**STORED["spec"], "pools": pools}})
    assert found is None
    assert "spec.pools[0].replicas" in wrong
    assert "mood" not in wrong


def test_a_status_of_another_version_counts_as_none() -> None:
    alien = {**STORED, "status": {"conditions": "good"}}
    assert read_status(alien) is None
    found, wrong = read_deployment(alien)
    assert found is not None
    assert wrong == ""
    assert refreshed(found, alien).status is None


def test_a_deployment_that_was_read_before_follows_its_metadata_and_status() -> None:
    found, _ = read_deployment(STORED)
    assert found is not None
    later = {**STORED, "metadata": {**STORED["metadata"], "resourceVersion": "8"}}
    now = refreshed(found, {**later, "status": {"poolsSummary": "1/2"}})
    assert now.metadata.resource_version == "8"
    assert now.status is not None
    assert now.status.pools_summary == "1/2"
    assert now.spec == found.spec


def test_a_pool_that_was_spoilt_by_hand_is_named_with_its_field() -> None:
    pools, wrong = read_pools([stored_pool(), stored_pool(resources={"limits": {"cpu": "a lot"}})])
    assert set(pools) == {"chat-default"}
    assert wrong.startswith("EnginePool chat-default: spec.resources.limits.cpu")


def test_a_pools_status_of_another_version_counts_as_none() -> None:
    pools, wrong = read_pools([{**stored_pool(), "status": {"conditions": "good"}}])
    assert wrong == ""
    assert pools["chat-default"].status is None
