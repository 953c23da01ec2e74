"""The gateway's view of a real API server: what it finds, and what it keeps when that is away."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cluster
import pytest
from api_proxy import ApiProxy, Fault
from gateway_process import GatewayProcess, watching
from kube import Kube, Object
from stream_auditor import Recording, record
from stub_worker import OK, StubWorker
from waiting import PATIENCE

from penstock_contract.fleet import WorkerState
from penstock_contract.labels import DEPLOYMENT, DRAINING, POOL, ROLE, ROLLOUT_HASH

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def gateway(
    tmp_path: Path, kube: Kube, proxy: ApiProxy, anyio_backend: str
) -> AsyncIterator[GatewayProcess]:
    """A gateway that watches a fresh namespace, through the proxy."""
    async with watching(tmp_path, kube, proxy) as found:
        yield found


def deploy(kube: Kube, called: str, **model: Any) -> Object:
    source = {"uri": "pvc://models/m", **model}
    return kube.create(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceDeployment",
            "metadata": {"name": called, "namespace": kube.namespace},
            "spec": {
                "model": source,
                "pools": [{"name": "main", "replicas": 1}],
                # Who finds no worker is to hear of it at once.
                "queue": {"timeout": "50ms", "coldStartTimeout": "50ms"},
            },
        }
    )


def run_pod(kube: Kube, worker: StubWorker, deployment: str, *, revision: str = "r1") -> Object:
    """Create a worker's pod, and be its kubelet: the stub runs on this machine."""
    labels = {DEPLOYMENT: deployment, POOL: "main", ROLE: "Unified", ROLLOUT_HASH: revision}
    port = {"name": "http", "containerPort": worker.port}
    pod = kube.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"pod-{secrets.token_hex(4)}",
                "namespace": kube.namespace,
                "labels": labels,
            },
            "spec": {
                "containers": [{"name": "worker", "image": "none", "ports": [port]}],
                # No scheduler has to look at it.
                "schedulerName": "nobody",
            },
        }
    )
    say(kube, pod, ready=True)
    return pod


def say(kube: Kube, pod: Object, *, ready: bool) -> None:
    status = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [
            {
                "name": "worker",
                "ready": ready,
                "started": True,
                "restartCount": 0,
                "image": "none",
                "imageID": "",
                "state": {"running": {}},
            }
        ],
    }
    kube.merge("Pod", pod["metadata"]["name"], {"status": status}, "status")


def drain(kube: Kube, pod: Object) -> None:
    patch = {"metadata": {"annotations": {DRAINING: "true"}}}
    kube.merge("Pod", pod["metadata"]["name"], patch)


async def ask(gateway: GatewayProcess, model: str) -> Recording:
    return await record(gateway.url, CHAT, {"model": model, "messages": []})


async def becomes(gateway: GatewayProcess, states: dict[str, WorkerState]) -> None:
    """Wait until the gateway knows exactly these workers, by pod uid."""

    async def known() -> bool:
        found = (await gateway.workers()).workers
        return {uid: load.state for uid, load in found.items()} == states

    await gateway.until(known)


def uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


async def test_pods_are_served_under_the_names_of_their_deployment(
    gateway: GatewayProcess, kube: Kube
) -> None:
    async with StubWorker() as worker:
        deploy(kube, "m", name="org/model", aliases=["short"])
        pod = run_pod(kube, worker, "m")
        await becomes(gateway, {uid(pod): WorkerState.READY})
        for name in ("org/model", "short"):
            assert (await ask(gateway, name)).body == OK
        assert (await ask(gateway, "m")).status == 404
        assert (await gateway.get("/readyz")).status_code == 200


async def test_a_pod_that_drains_or_goes_is_seen_at_once(
    gateway: GatewayProcess, kube: Kube
) -> None:
    async with StubWorker() as one, StubWorker() as two:
        deploy(kube, "m")
        first, second = run_pod(kube, one, "m"), run_pod(kube, two, "m")
        await becomes(gateway, {uid(first): WorkerState.READY, uid(second): WorkerState.READY})
        drain(kube, first)
        await becomes(gateway, {uid(first): WorkerState.DRAINING, uid(second): WorkerState.READY})
        for _ in range(4):
            assert (await ask(gateway, "m")).body == OK
        assert (len(one.seen), len(two.seen)) == (0, 4)
        kube.delete("Pod", first["metadata"]["name"], grace=0)
        await becomes(gateway, {uid(second): WorkerState.READY})
        say(kube, second, ready=False)
        await becomes(gateway, {uid(second): WorkerState.DRAINING})
        assert (await ask(gateway, "m")).status == 503


async def test_other_namespaces_are_not_seen(
    gateway: GatewayProcess, kube: Kube, access: Any
) -> None:
    with cluster.namespace(access) as elsewhere:
        deploy(elsewhere, "foreign")
        deploy(kube, "own")

        async def own() -> bool:
            return (await ask(gateway, "own")).status == 503

        await gateway.until(own)
        assert (await ask(gateway, "foreign")).status == 404


async def test_a_name_that_two_deployments_ask_for_stays_with_the_older_one(
    gateway: GatewayProcess, kube: Kube
) -> None:
    async with StubWorker() as worker:
        deploy(kube, "a-first", name="shared")
        pod = run_pod(kube, worker, "a-first")
        await becomes(gateway, {uid(pod): WorkerState.READY})
        deploy(kube, "b-second", name="shared", aliases=["second"])

        async def told() -> bool:
            return await gateway.metric("penstock_gateway_name_conflicts") == 1

        await gateway.until(told)
        assert "asks for the served name 'shared'" in gateway.said()
        assert (await ask(gateway, "shared")).body == OK
        assert (await ask(gateway, "second")).status == 503
        kube.delete("InferenceDeployment", "a-first")

        async def handed_over() -> bool:
            return (await ask(gateway, "shared")).status == 503

        await gateway.until(handed_over)
        assert await gateway.metric("penstock_gateway_name_conflicts") == 0


async def test_a_canary_is_followed_from_the_status(gateway: GatewayProcess, kube: Kube) -> None:
    async with StubWorker() as new, StubWorker() as old:
        deploy(kube, "m")
        pods = [run_pod(kube, new, "m", revision="new"), run_pod(kube, old, "m", revision="old")]
        canary = {"revision": "new", "weight": 99, "since": "2026-01-01T00:00:00Z"}
        kube.merge("InferenceDeployment", "m", {"status": {"canary": canary}}, "status")
        await becomes(gateway, {uid(pod): WorkerState.READY for pod in pods})

        async def everything_goes_to_the_new_one() -> bool:
            before = len(old.seen)
            for n in range(6):
                body = {"model": "m", "prompt": f"prompt {n}"}
                await record(gateway.url, "/v1/completions", body)
            return len(old.seen) == before

        await gateway.until(everything_goes_to_the_new_one)


async def test_without_the_api_server_the_last_fleet_serves_and_then_it_catches_up(
    gateway: GatewayProcess, kube: Kube, proxy: ApiProxy
) -> None:
    async with StubWorker() as one, StubWorker() as two:
        deploy(kube, "m")
        first = run_pod(kube, one, "m")
        await becomes(gateway, {uid(first): WorkerState.READY})
        proxy.go_away()

        async def stale() -> bool:
            return await gateway.metric("penstock_gateway_fleet_stale") == 1

        await gateway.until(stale)
        second = run_pod(kube, two, "m")
        drain(kube, first)
        assert (await ask(gateway, "m")).body == OK
        assert (await gateway.get("/readyz")).status_code == 200
        assert (await gateway.get("/health")).status_code == 200
        proxy.come_back()
        await becomes(gateway, {uid(first): WorkerState.DRAINING, uid(second): WorkerState.READY})

        async def fresh() -> bool:
            return await gateway.metric("penstock_gateway_fleet_stale") == 0

        await gateway.until(fresh)
        assert "Traceback" not in gateway.said()


async def test_a_watch_that_is_too_old_is_begun_anew(
    gateway: GatewayProcess, kube: Kube, proxy: ApiProxy
) -> None:
    async with StubWorker() as worker:
        deploy(kube, "m")
        pod = run_pod(kube, worker, "m")
        await becomes(gateway, {uid(pod): WorkerState.READY})
        before = len([call for call in proxy.calls if call.verb == "list"])
        # What happens meanwhile reaches the gateway only by a new list.
        proxy.edit = lambda call, line: []
        kube.delete("Pod", pod["metadata"]["name"], grace=0)
        proxy.expire_watches()
        await becomes(gateway, {})
        assert len([call for call in proxy.calls if call.verb == "list"]) > before


async def test_it_only_reads_and_only_what_its_role_allows(
    gateway: GatewayProcess, kube: Kube, proxy: ApiProxy
) -> None:
    deploy(kube, "m")
    allowed = {
        ("penstock.dev", "inferencedeployments", "list"),
        ("penstock.dev", "inferencedeployments", "watch"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
    }

    async def seen() -> bool:
        called = {call.grant for call in proxy.calls}
        return (await ask(gateway, "m")).status == 503 and called >= allowed

    await gateway.until(seen)
    assert {call.grant for call in proxy.calls} == allowed


async def test_it_waits_for_the_api_server_when_it_starts_without_one(
    tmp_path: Path, kube: Kube, proxy: ApiProxy
) -> None:
    deploy(kube, "m")
    refused = proxy.inject(Fault(lambda call: True, times=6, status=500))
    config = proxy.kubeconfig(tmp_path / "kubeconfig")
    found = GatewayProcess(
        tmp_path,
        *("--kubernetes", "--namespace", kube.namespace),
        environment={"KUBECONFIG": str(config)},
    )
    try:
        await found.start()
        assert len(refused.hits) == 6
        assert (await ask(found, "m")).status == 503
    finally:
        found.stop()


async def test_without_a_cluster_it_says_so_and_ends(tmp_path: Path) -> None:
    found = GatewayProcess(
        tmp_path, "--kubernetes", environment={"KUBECONFIG": str(tmp_path / "nowhere")}
    )
    found.spawn()
    assert found.process is not None
    assert found.process.wait(PATIENCE) != 0
    assert "--kubernetes: no cluster" in found.said()
    assert "Traceback" not in found.said()
    found.stop()
