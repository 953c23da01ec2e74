"""`penstock down FILE` takes a part away, and nothing else notices."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_http
import pytest

from penstock_contract.api import EnginePool, InferenceDeployment, Tenant
from penstock_contract.api_keys import hash_of
from penstock_operator.local.desired import reconcile
from penstock_operator.local.store import Store
from penstock_operator.validation import load_manifests

Write = Callable[..., Path]
NOW = "2026-01-01T00:00:00Z"
MODEL = Path(__file__).parents[2] / "examples" / "model"
TENANT = (
    "apiVersion: penstock.dev/v1alpha1\nkind: Tenant\nmetadata: {name: team}\n"
    f"spec: {{apiKeys: [{{sha256: {hash_of('sk-any')}}}]}}\n"
)


def other(folder: Path) -> Path:
    """Write the manifest of a second deployment of the example model."""
    path = folder / "other.yaml"
    path.write_text(
        "apiVersion: penstock.dev/v1alpha1\nkind: InferenceDeployment\n"
        f"metadata: {{name: other}}\nspec:\n  model: {{uri: 'file://{MODEL}', name: other}}\n"
        "  pools: [{name: default, replicas: 1, resources: {limits: {cpu: 1}}}]\n"
    )
    return path


def names(machine: Any) -> list[str]:
    return [item["metadata"]["name"] for item in machine.status()["items"]]


def test_pools_go_with_their_deployment(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for found in load_manifests(other(tmp_path).read_text(), "other.yaml").objects:
        assert isinstance(found, InferenceDeployment)
        store.put(found, NOW)
    assert [str(key) for key in reconcile(store, NOW).pools] == ["other/default"]
    store.delete(InferenceDeployment, "other")
    assert not reconcile(store, NOW).pools
    assert not store.list(EnginePool)


async def ask_and_take_away(machine: Any, file: Path) -> str:
    """Take a deployment away while it streams an answer; return how the answer ended."""
    begun = asyncio.Event()

    async def ask() -> str:
        last = ""
        async with (
            plain_http.client() as client,
            client.stream(
                "POST",
                f"http://127.0.0.1:{machine.port}/v1/completions",
                json={
                    "model": "other",
                    "prompt": "a",
                    "max_tokens": 400,
                    "ignore_eos": True,
                    "stream": True,
                },
            ) as answer,
        ):
            async for line in answer.aiter_lines():
                begun.set()
                last = line or last
        return last

    answer = asyncio.create_task(ask())
    await begun.wait()
    told = await asyncio.to_thread(machine.run, "down", file)
    assert "taken away: other" in told
    return await answer


@pytest.mark.e2e
def test_one_deployment_is_taken_away_and_its_answers_finish(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    machine.up(manifest())
    machine.run("up", other(tmp_path))
    (stays,) = [w["pid"] for w in machine.workers() if w["id"].startswith("small")]
    assert asyncio.run(ask_and_take_away(machine, tmp_path / "other.yaml")) == "data: [DONE]"
    assert names(machine) == ["small"]
    assert [worker["pid"] for worker in machine.workers()] == [stays]
    assert "nothing of" in machine.run("down", tmp_path / "other.yaml", code=2)
    assert machine.run("chat", "What is a list?").strip()
    assert "other" in machine.run("up", other(tmp_path)), "it may come back"
    assert names(machine) == ["other", "small"]


@pytest.mark.e2e
def test_a_tenant_is_taken_away_and_the_last_one_opens_the_gateway(
    machine: Any, manifest: Write, tmp_path: Path
) -> None:
    team = tmp_path / "team.yaml"
    team.write_text(TENANT)
    machine.up(manifest())
    machine.run("up", team)
    models = f"http://127.0.0.1:{machine.port}/v1/models"

    def closed() -> bool:
        return plain_http.get(models).status_code == 401

    machine.eventually(closed, "the gateway asks for keys")
    assert "no Tenant is left" in machine.run("down", team)
    assert not Store(machine.state.objects).list(Tenant)
    machine.eventually(lambda: not closed(), "the gateway takes everyone")
    assert names(machine) == ["small"]
