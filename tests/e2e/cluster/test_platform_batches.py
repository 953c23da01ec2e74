"""Files and batches of a release: a pod with a volume, killed, beside interactive requests.

After test_platform.py, which leaves nothing but the API types: a release is installed anew.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_stack import CHAT, jsonl, line
from helm import NAMESPACE, RELEASE
from installation import Installation, kubectl, objects, pod_metric, reached, serving
from load import assert_nothing_lost, done, load
from network import Pod, reaches
from openai import OpenAI
from openai.types import Batch
from waiting import eventually

pytestmark = [pytest.mark.e2e_cluster, pytest.mark.anyio, pytest.mark.timeout(600)]

MODEL = "pydoc"
CLIENTS = 2
COUNT = 200
SERVICE, GATEWAY = f"{RELEASE}-batches", f"{RELEASE}-gateway"
BATCHES_PORT, GATEWAY_PORT = 8001, 8000
GATEWAYS = "app.kubernetes.io/component=gateway"
BATCHES = "app.kubernetes.io/component=batches"
VOLUME = "penstock-e2e"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the release is installed with; its token and, where there is no other, its volume."""
    token = f"--from-literal=token={secrets.token_hex(32)}"
    kubectl("--namespace", NAMESPACE, "create", "secret", "generic", SERVICE, token)
    if not default_class():
        kubectl("apply", "-f", "-", stdin=json.dumps(volume(tmp_path_factory.mktemp("volume"))))
    yield {"batches": {"enabled": True, "tokenSecret": SERVICE}}
    kubectl("--namespace", NAMESPACE, "delete", f"secret/{SERVICE}", f"pvc/{SERVICE}")
    kubectl("delete", "persistentvolume", VOLUME, "--ignore-not-found")


@pytest.fixture(scope="module")
def release(installation: Installation, values: dict[str, Any]) -> Iterator[Installation]:
    """A release with batches, and the quickstart."""
    install(installation, values)
    with serving(installation) as found:
        yield found


@pytest.fixture(scope="module")
def client(release: Installation) -> Iterator[OpenAI]:
    """OpenAI's client as it is, but for some more patience."""
    with OpenAI(base_url=f"{release.url}/v1", api_key="none", max_retries=8) as found:
        yield found


def install(installation: Installation, values: dict[str, Any]) -> None:
    """Install the release; where the cluster has no DNS, tell its parts their addresses."""
    installation.upgrade(**values)
    if objects("services", "kube-system", "k8s-app=kube-dns"):
        return
    services = {found["metadata"]["name"]: found for found in objects("services", NAMESPACE)}
    gateway, batches = (services[name]["spec"]["clusterIP"] for name in (GATEWAY, SERVICE))
    own = {**values["batches"], "extraArgs": [f"--gateway=http://{gateway}"]}
    told = {"extraArgs": [f"--batches=http://{batches}:{BATCHES_PORT}"]}
    installation.upgrade(batches=own, gateway=told)


def default_class() -> bool:
    """Return whether the cluster makes volumes by itself."""
    marks = [found["metadata"].get("annotations", {}) for found in objects("storageclasses", "")]
    return any(m.get("storageclass.kubernetes.io/is-default-class") == "true" for m in marks)


def volume(folder: Path) -> dict[str, Any]:
    """Return a volume on the one node, which is this machine where no class makes any."""
    (node,) = objects("nodes", "")
    name = {"key": "metadata.name", "operator": "In", "values": [node["metadata"]["name"]]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": VOLUME},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [name]}]}},
        },
    }


def pod() -> dict[str, Any]:
    """Return the service's pod, once it is ready."""

    def ready() -> list[dict[str, Any]]:
        found = [p for p in objects("pods", NAMESPACE, BATCHES) if not leaving(p)]
        states = [s["ready"] for p in found for s in p["status"].get("containerStatuses", [])]
        return found if states == [True] else []

    return eventually(ready, "the batch service is ready", within=120, every=0.5)[0]


def leaving(found: dict[str, Any]) -> bool:
    return "deletionTimestamp" in found["metadata"]


def ordered(client: OpenAI, count: int, tokens: int) -> Batch:
    """Upload a file of so many requests and create a batch of it."""
    lines = (line(f"n{number}", f"What is {number}?", max_tokens=tokens) for number in range(count))
    file = client.files.create(file=("input.jsonl", jsonl(lines)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


def until(client: OpenAI, batch: Batch, completed: int) -> None:
    """Wait until so many requests of a batch have an answer."""

    def reached() -> bool:
        counts = client.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed >= completed

    eventually(reached, f"{completed} are answered", within=240, every=0.2)


def ended(client: OpenAI, batch: Batch, status: str) -> Batch:
    """Return a batch when it has come to its last status."""
    eventually(lambda: client.batches.retrieve(batch.id).status == status, status, 240, 0.5)
    return client.batches.retrieve(batch.id)


def results(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the lines of an output or error file."""
    text = client.files.content(file_id).text if file_id else ""
    return [json.loads(found) for found in text.splitlines()]


async def test_a_batch_outlives_the_pod_that_carries_it_and_the_release(
    release: Installation, client: OpenAI, values: dict[str, Any]
) -> None:
    first = await asyncio.to_thread(pod)
    async with load(release.url, MODEL, CLIENTS) as found:
        batch = await asyncio.to_thread(ordered, client, COUNT, 16)
        await asyncio.to_thread(until, client, batch, COUNT // 5)
        before = client.batches.retrieve(batch.id).request_counts
        assert before is not None
        assert before.completed < COUNT
        name = first["metadata"]["name"]
        await asyncio.to_thread(
            kubectl, "-n", NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force"
        )
        second = await asyncio.to_thread(pod)
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        last = await asyncio.to_thread(ended, client, batch, "completed")
        await done(found, CLIENTS)
    assert_nothing_lost(found)
    assert last.request_counts is not None
    assert (last.request_counts.completed, last.request_counts.failed) == (COUNT, 0)
    wanted = [f"n{number}" for number in range(COUNT)]
    assert [one["custom_id"] for one in results(client, last.output_file_id)] == wanted
    release.uninstall()
    (claim,) = objects("persistentvolumeclaims", NAMESPACE)
    assert claim["metadata"]["name"] == SERVICE
    install(release, values)
    with reached(release):
        again = client.with_options(base_url=f"{release.url}/v1")
        assert [one["custom_id"] for one in results(again, last.output_file_id)] == wanted


def test_a_batch_that_is_cancelled_keeps_what_it_has(release: Installation) -> None:
    with reached(release), OpenAI(base_url=f"{release.url}/v1", api_key="none") as client:
        batch = ordered(client, 2 * COUNT, 32)
        until(client, batch, 8)
        client.batches.cancel(batch.id)
        last = ended(client, batch, "cancelled")
        output, errors = results(client, last.output_file_id), results(client, last.error_file_id)
    assert len(output) >= 8
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    lines = Counter(one["custom_id"] for one in output + errors)
    assert lines == Counter(f"n{number}" for number in range(2 * COUNT))


def test_metrics_tell_of_batches_and_of_what_the_gateways_let_through(
    release: Installation,
) -> None:
    service = pod()
    cancelled = 'penstock_batch_ended_total{status="cancelled"}'
    assert pod_metric(service, cancelled, BATCHES_PORT) == 1
    of_lines = 'penstock_batch_requests_total{outcome="completed"}'
    assert pod_metric(service, of_lines, BATCHES_PORT) >= 8
    assert pod_metric(service, "penstock_batch_in_flight", BATCHES_PORT) == 0
    gateways = [found for found in objects("pods", NAMESPACE, GATEWAYS) if not leaving(found)]
    through = sum(pod_metric(found, "penstock_gateway_spare_arrivals_total") for found in gateways)
    assert through >= 8


@pytest.mark.usefixtures("release")
def test_network_policies_let_gateway_and_service_meet_and_nobody_else() -> None:
    policies = objects("networkpolicies", NAMESPACE)
    assert policies
    labels = json.loads(kubectl("get", "namespace", NAMESPACE, "-o", "json"))["metadata"]["labels"]
    # Versions before 1.21 leave it to the installer.
    labels["kubernetes.io/metadata.name"] = NAMESPACE
    service = Pod(NAMESPACE, pod()["metadata"]["labels"], labels)
    for found in objects("pods", NAMESPACE, GATEWAYS):
        gateway = Pod(NAMESPACE, found["metadata"]["labels"], labels)
        assert reaches(policies, gateway, service, BATCHES_PORT)
        assert reaches(policies, service, gateway, GATEWAY_PORT)
    stranger = Pod(NAMESPACE, {"app": "stranger"}, labels)
    assert not reaches(policies, stranger, service, BATCHES_PORT)
    assert not reaches(policies, service, stranger, 80)
