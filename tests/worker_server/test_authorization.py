"""Who may ask a worker what, when gateway and worker share a token."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fake_engine import FakeEngineClient
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from worker_process import NAME

from penstock_contract.worker_token import ENVIRONMENT, WorkerTokens
from penstock_worker.server.app import create_app
from penstock_worker.server.authorization import PUBLIC
from penstock_worker.server.metrics import WorkerMetrics
from penstock_worker.server.service import Service

pytestmark = pytest.mark.anyio

TOKENS = WorkerTokens.of({ENVIRONMENT: "a-token-of-many-characters"})
REGISTRY = CollectorRegistry()
METRICS = WorkerMetrics(REGISTRY, NAME)


@pytest.fixture
async def client(anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    service = Service((NAME,), FakeEngineClient(), METRICS)
    transport = httpx.ASGITransport(create_app(service, REGISTRY, TOKENS))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as found:
        yield found


def routes() -> list[tuple[str, str]]:
    app = create_app(Service((NAME,), FakeEngineClient(), METRICS), REGISTRY)
    return [
        (method, route.path.replace("{lease}", "x").replace("{name:path}", NAME))
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    ]


async def test_every_route_is_public_or_for_who_shows_the_token(client: httpx.AsyncClient) -> None:
    found = routes()
    assert {path for _, path in found} > PUBLIC
    for method, path in found:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code == 401) == (path not in PUBLIC), (method, path)


async def test_who_shows_the_token_is_served(client: httpx.AsyncClient) -> None:
    shown = dict(TOKENS.headers())
    assert (await client.get("/v1/models", headers=shown)).status_code == 200
    assert (await client.post("/v1/completions", headers=shown)).status_code == 415


@pytest.mark.parametrize("path", ["/health/", "//health", "/HEALTH", "/metrics/../v1/models"])
async def test_nothing_but_a_public_path_itself_is_public(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(path)).status_code == 401


async def test_a_refusal_is_an_error_in_the_common_shape(client: httpx.AsyncClient) -> None:
    answer = await client.post("/drain")
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "x-request-id" in answer.headers
