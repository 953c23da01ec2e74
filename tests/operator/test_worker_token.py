"""The token that workers ask for: by reference into their pods, and shown by the operator."""

from typing import Any, cast

import httpx
import pytest
from deployments import deployment

from penstock_contract.worker_token import ENVIRONMENT, VLLM_ENVIRONMENT, WorkerTokens
from penstock_operator.cluster.act import Actor
from penstock_operator.cluster.actions import Mark
from penstock_operator.cluster.api import Api
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.events import Events
from penstock_operator.manifests import Settings, worker_container
from penstock_operator.plan import plan

TOKEN = "a-token-of-many-characters"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def variables(engine: str, settings: Settings) -> list[dict[str, Any]]:
    infd = deployment(engine={"type": engine})
    found = worker_container(infd, plan(infd, {}).pools[0], settings)["env"]
    return [one for one in found if one["name"] in (ENVIRONMENT, VLLM_ENVIRONMENT)]


@pytest.mark.parametrize(
    ("engine", "name"), [("Penstock", ENVIRONMENT), ("VLLM", VLLM_ENVIRONMENT)]
)
def test_a_worker_reads_it_from_the_secret(engine: str, name: str) -> None:
    (found,) = variables(engine, Settings(worker_token_secret="workers"))
    key = {"name": "workers", "key": "token"}
    assert found == {"name": name, "valueFrom": {"secretKeyRef": key}}


@pytest.mark.parametrize("engine", ["Penstock", "VLLM"])
def test_without_a_secret_a_worker_asks_for_none(engine: str) -> None:
    assert variables(engine, Settings()) == []


class Server:
    async def merge(self, *_: Any) -> dict[str, Any]:
        meta = {"namespace": "models", "name": "w", "uid": "1", "resourceVersion": "1"}
        return {"metadata": meta}


@pytest.mark.anyio
async def test_a_worker_that_is_told_to_drain_is_shown_it() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200)

    cache, api = Cache(), cast("Api", Server())
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        actor = Actor(api, cache, Events(api), http, WorkerTokens((TOKEN,)))
        about = {"apiVersion": "x", "kind": "InferenceDeployment", "metadata": {}}
        mark = Mark("w", "10.0.0.1", draining=True, patch={}, reason="fewer are wanted")
        await actor.act(Key("models", "chat"), about, mark, set())
    (request,) = asked
    assert (request.method, request.url.path) == ("POST", "/drain")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
