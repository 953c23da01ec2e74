"""From `helm install` to streamed tokens out of pods, and to nothing left. In this order.

What a request may suffer: a pause. Whatever becomes of its worker, its answer is whole.
"""

import asyncio

import pytest
from installation import MODELS, Installation, kubectl, objects
from load import assert_nothing_lost, done, load
from openai import OpenAI
from waiting import eventually

pytestmark = [pytest.mark.e2e_cluster, pytest.mark.anyio, pytest.mark.timeout(600)]

MODEL = "pydoc"
CLIENTS = 6
LEFT_BY_A_MODEL = (
    "enginepools", "deployments", "replicasets", "pods", "services", "serviceaccounts",
    "poddisruptionbudgets", "networkpolicies",
)  # fmt: skip


def test_the_official_client_streams_an_answer_from_pods(installation: Installation) -> None:
    client = OpenAI(base_url=f"{installation.url}/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "What is a list?"}], stream=True
    )
    text = ""
    for chunk in stream:
        content = chunk.choices[0].delta.content
        if content and not text:
            installation.took("first_token")
        text += content or ""
    assert "list" in text.lower()
    assert [model.id for model in client.models.list()] == [MODEL]


async def test_streams_under_load_keep_every_invariant(installation: Installation) -> None:
    async with load(installation.url, MODEL, CLIENTS) as found:
        await done(found, 3 * CLIENTS)
    assert_nothing_lost(found)


async def test_a_killed_worker_costs_nothing(installation: Installation) -> None:
    victim = installation.workers()[0]["metadata"]["name"]
    async with load(installation.url, MODEL, CLIENTS, tokens=96) as found:
        await done(found, CLIENTS)
        await asyncio.to_thread(
            kubectl, "-n", MODELS, "delete", "pod", victim, "--grace-period=0", "--force"
        )
        await done(found, 5 * CLIENTS)
    assert_nothing_lost(found, tokens=96)
    await asyncio.to_thread(installation.settled)
    names = {pod["metadata"]["name"] for pod in installation.workers()}
    assert len(names) == 2
    assert victim not in names


async def test_a_rolling_update_loses_nothing(installation: Installation) -> None:
    before = {pod["metadata"]["uid"] for pod in installation.workers()}
    async with load(installation.url, MODEL, CLIENTS) as found:
        await done(found, CLIENTS)
        with installation.timed("rolling_update"):
            await asyncio.to_thread(installation.patch, {"engine": {"maxNumSeqs": 64}})
            await asyncio.to_thread(installation.settled)
        await done(found, len(found.recordings) + CLIENTS)
    assert_nothing_lost(found)
    after = installation.workers()
    assert len(after) == 2
    assert not before & {pod["metadata"]["uid"] for pod in after}
    assert all("--max-num-seqs" in pod["spec"]["containers"][0]["args"] for pod in after)


async def test_a_pool_scales_down_without_losing_a_request(installation: Installation) -> None:
    async with load(installation.url, MODEL, CLIENTS) as found:
        await done(found, CLIENTS)
        with installation.timed("scale_down"):
            await asyncio.to_thread(
                kubectl, "-n", MODELS, "scale", "enginepool/quickstart-default", "--replicas=1"
            )
            await asyncio.to_thread(
                eventually, lambda: len(installation.workers()) == 1, "one", 180
            )
        await done(found, len(found.recordings) + CLIENTS)
    assert_nothing_lost(found)


def test_nothing_restarts_while_nothing_changes(installation: Installation) -> None:
    restarts = {
        status["name"]: status["restartCount"]
        for namespace in (MODELS, "penstock-system")
        for pod in objects("pods", namespace)
        for status in pod["status"]["containerStatuses"]
    }
    assert restarts.keys() == {"worker", "gateway", "operator"}
    assert set(restarts.values()) == {0}


def test_a_deleted_model_leaves_nothing(installation: Installation) -> None:
    def left() -> list[str]:
        return [
            f"{kind}/{found['metadata']['name']}"
            for kind in LEFT_BY_A_MODEL
            for found in objects(kind, MODELS, "penstock.dev/deployment")
        ]

    with installation.timed("delete"):
        installation.delete()
        eventually(lambda: not left(), "nothing is left of the model", within=180, every=0.5)


def test_an_uninstalled_release_leaves_the_api_types_alone(installation: Installation) -> None:
    installation.uninstall()
    left = "deployments,services,pods,serviceaccounts,roles,rolebindings,networkpolicies,pdb"
    mine = "app.kubernetes.io/instance=penstock"
    eventually(lambda: not objects(left, "penstock-system", mine), "the release is gone", 120)
    wide = "clusterroles,clusterrolebindings"
    assert objects(wide, "penstock-system", mine) == []
    kept = {crd["metadata"]["name"] for crd in objects("crds", "default")}
    assert {"inferencedeployments.penstock.dev", "enginepools.penstock.dev"} <= kept
