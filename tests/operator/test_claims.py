"""Claims in pods: one volume for each, whatever lies on it."""

from typing import Any

from deployments import deployment

from penstock_operator.manifests import Settings, workload
from penstock_operator.plan import plan

DRAFT = {"method": "draft", "draft": {"uri": "hf://org/small"}}
TIER = {"medium": "Disk", "capacity": "1Gi", "claimName": "disk"}


def pod(model: dict[str, Any], **engine: Any) -> dict[str, Any]:
    infd = deployment(model=model, engine=engine)
    found = workload(infd, plan(infd, {}).pools[0], Settings(), 1)
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def claims(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the claims of a pod, by its volumes."""
    found = {one["name"]: one.get("persistentVolumeClaim") for one in spec["volumes"]}
    return {name: claim for name, claim in found.items() if claim}


def mounts(container: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return the volume at each path, and whether it is only read there."""
    return {
        mount["mountPath"]: (mount["name"], mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    }


def test_a_cache_that_all_downloads_share_is_one_volume() -> None:
    adapters = [{"name": "sql", "uri": "hf://org/sql"}]
    model = {"uri": "hf://org/m", "cache": {"claimName": "disk"}, "adapters": adapters}
    found = pod(model, speculative=DRAFT)
    assert claims(found) == {"model": {"claimName": "disk", "readOnly": False}}
    seen = mounts(found["containers"][0])
    assert {seen[path] for path in ("/models", "/draft", "/adapters/cache")} == {("model", True)}
    assert [next(iter(mounts(one).items())) for one in found["initContainers"]] == [
        ("/models", ("model", False)),
        ("/draft", ("model", False)),
    ]
    agent = found["containers"][1]
    assert (agent["name"], mounts(agent)["/adapters/cache"]) == ("adapters", ("model", False))


def test_a_claim_that_is_only_read_stays_so() -> None:
    speculative = {"method": "draft", "draft": {"uri": "pvc://disk/small"}}
    found = pod({"uri": "pvc://disk/large"}, speculative=speculative)
    assert claims(found) == {"model": {"claimName": "disk", "readOnly": True}}
    seen = mounts(found["containers"][0])
    assert (seen["/models"], seen["/draft"]) == (("model", True), ("model", True))


def test_a_tier_on_the_models_claim_is_written_beside_it() -> None:
    found = pod({"uri": "pvc://disk/large"}, kvTiers=[TIER])
    assert claims(found) == {"model": {"claimName": "disk", "readOnly": False}}
    seen = mounts(found["containers"][0])
    assert (seen["/models"], seen["/kv"]) == (("model", True), ("model", False))


def test_claims_that_differ_keep_a_volume_each() -> None:
    found = pod({"uri": "pvc://one/large"}, kvTiers=[TIER])
    assert set(claims(found)) == {"model", "kv"}
