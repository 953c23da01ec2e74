"""What platform engineers do to a release and its models, with gateways of several processes.

After test_cluster.py, which leaves nothing but the API types: a release is installed anew.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from helm import NAMESPACE
from installation import (
    MODELS,
    QUICKSTART,
    Installation,
    kubectl,
    objects,
    pod_metric,
    reached,
    serving,
)
from load import assert_nothing_lost, done, load
from waiting import eventually

pytestmark = [pytest.mark.e2e_cluster, pytest.mark.anyio, pytest.mark.timeout(600)]

MODEL = "pydoc"
CLIENTS = 6
GATEWAYS, PROCESSES = 2, 2
GATEWAY: dict[str, Any] = {"replicas": GATEWAYS, "processes": PROCESSES}
OTHERS = f"{MODELS}-others"
LIST = {"model": MODEL, "prompt": "A list is", "max_tokens": 4, "temperature": 0}
GATEWAY_PODS = "app.kubernetes.io/component=gateway"


@pytest.fixture(scope="module")
def platform(installation: Installation) -> Iterator[Installation]:
    """A release with two gateways of two processes each, and the quickstart."""
    installation.upgrade(gateway=GATEWAY)
    with serving(installation) as found:
        yield found


def manifest(name: str, **changes: Any) -> dict[str, Any]:
    """Return the quickstart under another name, with one worker and changed parts of its spec."""
    found: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text())
    found["metadata"]["name"] = name
    spec = found["spec"]
    spec["model"]["name"] = name
    spec["pools"][0]["replicas"] = 1
    for field, change in changes.items():
        part = spec["pools"][0] if field == "pool" else spec[field]
        part |= change
    return found


def apply(body: dict[str, Any], namespace: str = MODELS) -> None:
    kubectl("--namespace", namespace, "apply", "--filename", "-", stdin=json.dumps(body))


def leaving(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


async def test_gateways_of_several_processes_share_the_load(platform: Installation) -> None:
    async with load(platform.url, MODEL, CLIENTS) as found:
        await done(found, 6 * CLIENTS)
    assert_nothing_lost(found)
    gateways = [pod for pod in objects("pods", NAMESPACE, GATEWAY_PODS) if not leaving(pod)]
    assert len(gateways) == GATEWAYS
    for pod in gateways:
        assert pod_metric(pod, 'penstock_gateway_processes{state="answering"}') == PROCESSES
        assert pod_metric(pod, "penstock_gateway_outcomes_total") > 0


async def test_an_upgrade_of_the_release_loses_nothing(platform: Installation) -> None:
    workers, gateways = platform.workers(), objects("pods", NAMESPACE, GATEWAY_PODS)
    changed = {"gateway": {**GATEWAY, "drainSeconds": 60}, "operator": {"logLevel": "debug"}}
    async with load(platform.url, MODEL, CLIENTS) as found:
        await done(found, CLIENTS)
        with platform.timed("helm_upgrade"):
            await asyncio.to_thread(lambda: platform.upgrade(**changed))
        await done(found, len(found.recordings) + 4 * CLIENTS)
    assert_nothing_lost(found)
    eventually(
        lambda: not uids(gateways) & uids(objects("pods", NAMESPACE, GATEWAY_PODS)),
        "the gateways before the upgrade are gone",
        within=120,
    )
    assert uids(platform.workers()) == uids(workers)


async def test_a_revision_that_cannot_start_is_taken_back(platform: Installation) -> None:
    before = uids(platform.workers())
    async with load(platform.url, MODEL, CLIENTS) as found:
        platform.patch({"engine": {"extraArgs": ["--no-such-flag"]}})
        await asyncio.to_thread(
            eventually,
            lambda: (
                platform.condition("quickstart", "RolloutComplete").get("reason") == "RolledBack"
            ),
            "rolled back",
            180,
            0.5,
        )
        told = platform.condition("quickstart", "RolloutComplete")["message"]
        assert "--no-such-flag" in told
        assert platform.condition("quickstart", "Ready")["status"] == "True"
        platform.patch({"engine": {"extraArgs": []}})
        await asyncio.to_thread(platform.settled)
    assert_nothing_lost(found)
    assert uids(platform.workers()) == before


def test_what_cannot_start_is_told_with_its_cause_and_goes_in_the_middle(
    platform: Installation,
) -> None:
    huge = {"requests": {"cpu": "512"}, "limits": {"cpu": "512"}}
    small = {"limits": {"cpu": "1", "memory": "48Mi"}, "requests": {"cpu": "10m"}}
    hungry = {"requests": {"cpu": "10m"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    image = "ghcr.io/penstock-dev/nowhere:0"
    bad: dict[str, tuple[dict[str, Any], str, str, str]] = {
        "no-image": ({"engine": {"image": image}}, "PoolsReady", "PodsFailing", image),
        "no-folder": ({"model": {"uri": "file:///no"}}, "PoolsReady", "PodsFailing", "/no"),
        "no-claim": ({"model": {"uri": "pvc://no/m"}}, "ModelResolved", "ModelNotFound", '"no"'),
        "no-node": ({"pool": {"resources": huge}}, "PoolsReady", "InsufficientCapacity", "cpu"),
        "no-memory": (
            {"pool": {"resources": small}}, "PoolsReady", "PodsFailing", "resources.limits.memory"
        ),
    }  # fmt: skip
    for name, (changes, *_) in bad.items():
        apply(manifest(name, **{"pool": {"resources": hungry}, **changes}))
    for name, (_, kind, reason, words) in bad.items():

        def told(name: str = name, kind: str = kind, reason: str = reason) -> str:
            found = platform.condition(name, kind)
            return str(found["message"]) if found.get("reason") == reason else ""

        assert words in eventually(told, f"{name} is told", within=120, every=0.5)
    kubectl("--namespace", MODELS, "delete", "infd", *bad)
    mine = f"penstock.dev/deployment in ({','.join(bad)})"
    kinds = "enginepools,deployments,pods,services,serviceaccounts,networkpolicies"
    eventually(lambda: not objects(kinds, MODELS, mine), "nothing is left of them", 120, 0.5)


def test_a_served_name_belongs_to_the_older_of_two_namespaces(platform: Installation) -> None:
    kubectl("create", "namespace", OTHERS)
    try:
        apply(manifest("quickstart", model={"name": MODEL}), OTHERS)

        def reason() -> str:
            return str(platform.condition("quickstart", "Ready", OTHERS).get("reason"))

        eventually(lambda: reason() == "NameTaken", "told", within=120, every=0.5)
        assert platform.condition("quickstart", "Ready")["status"] == "True"
        apply(manifest("quickstart", model={"name": "theirs"}), OTHERS)
        eventually(lambda: reason() == "Serving", "served", within=120, every=0.5)
        theirs = {**LIST, "model": "theirs"}
        eventually(lambda: ask(platform, theirs) == 200, "an answer by that name", within=60)
        assert ask(platform, LIST) == 200
    finally:
        kubectl("--namespace", OTHERS, "delete", "infd", "--all", "--timeout=60s")
        kubectl("delete", "namespace", OTHERS, "--wait=false")


def ask(platform: Installation, body: dict[str, Any], key: str = "none") -> int:
    headers = {"authorization": f"Bearer {key}"}
    found = httpx.post(f"{platform.url}/v1/completions", json=body, headers=headers, timeout=180)
    return found.status_code


def test_a_tenant_closes_the_gateways_to_everybody_else(platform: Installation) -> None:
    key = "sk-e2e"
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    tenant = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": "e2e"},
        "spec": {"apiKeys": [{"sha256": sha256}]},
    }

    def everywhere(status: int) -> bool:
        return {ask(platform, LIST) for _ in range(4 * GATEWAYS * PROCESSES)} == {status}

    apply(tenant, NAMESPACE)
    eventually(lambda: everywhere(401), "every process asks for a key", within=60)
    assert ask(platform, LIST, key) == 200
    kubectl("--namespace", NAMESPACE, "delete", "tenant", "e2e")
    eventually(lambda: everywhere(200), "every process is open", within=60)


def test_an_idle_model_sleeps_until_a_request_wakes_it(platform: Installation) -> None:
    body = manifest("sleepy")
    del body["spec"]["pools"][0]["replicas"]
    body["spec"]["pools"][0]["scaling"] = {"minReplicas": 1, "maxReplicas": 1}
    body["spec"]["autoscaling"] = {"scaleToZero": {"idle": "20s"}}
    apply(body)

    def workers() -> int:
        return len(objects("pods", MODELS, "penstock.dev/deployment=sleepy"))

    eventually(lambda: workers() == 1, "a worker", within=120, every=0.5)
    eventually(lambda: workers() == 0, "none", within=240, every=0.5)

    def reason() -> str:
        return str(platform.condition("sleepy", "Ready").get("reason"))

    eventually(lambda: reason() == "ScaledToZero", "its sleep is told", within=60, every=0.5)
    with platform.timed("wake"):
        assert ask(platform, {**LIST, "model": "sleepy"}) == 200
    kubectl("--namespace", MODELS, "delete", "infd", "sleepy")


def test_an_hpa_sizes_a_pool(platform: Installation) -> None:
    pool = {"apiVersion": "penstock.dev/v1alpha1", "kind": "EnginePool"}
    hpa = {
        "apiVersion": "autoscaling/v1",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "quickstart"},
        "spec": {
            "scaleTargetRef": {**pool, "name": "quickstart-default"},
            "minReplicas": 3,
            "maxReplicas": 3,
        },
    }
    apply(hpa)
    eventually(lambda: len(platform.workers()) == 3, "three workers", within=120, every=0.5)
    platform.settled()
    kubectl("--namespace", MODELS, "delete", "hpa", "quickstart")
    kubectl("--namespace", MODELS, "scale", "enginepool/quickstart-default", "--replicas=2")
    eventually(lambda: len(platform.workers()) == 2, "two workers", within=180, every=0.5)


def test_workers_outlive_a_release_and_the_next_one_takes_them_over(
    platform: Installation,
) -> None:
    before = uids(platform.workers())
    platform.uninstall()
    mine = "app.kubernetes.io/instance=penstock"
    eventually(lambda: not objects("pods", NAMESPACE, mine), "the release is gone", 180, 0.5)
    assert uids(platform.workers()) == before
    platform.upgrade(gateway=GATEWAY)
    with reached(platform):
        assert ask(platform, LIST) == 200
        platform.patch({"drain": {"timeout": "61s"}})
        platform.settled()
        assert ask(platform, LIST) == 200
