"""Tenants of a real API server: revoked at once, and kept while the server is away."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import plain_http
import pytest
from api_proxy import ApiProxy
from gateway_process import GatewayProcess, watching
from kube import Kube, Object

from penstock_contract.api_keys import hash_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def gateway(
    tmp_path: Path, kube: Kube, proxy: ApiProxy, anyio_backend: str
) -> AsyncIterator[GatewayProcess]:
    """A gateway that watches the Tenants of a fresh namespace."""
    tenancy = ("--tenant-namespace", kube.namespace, "--tenant-secrets")
    async with watching(tmp_path, kube, proxy, *tenancy) as found:
        yield found


def secret(kube: Kube, name: str, key: str) -> Object:
    data = {"key": base64.b64encode(hash_of(key).encode()).decode()}
    meta = {"name": name, "namespace": kube.namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}


def tenant(kube: Kube, name: str, *keys: dict[str, Any]) -> Object:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "namespace": kube.namespace},
        "spec": {"apiKeys": list(keys)},
    }


def answers(gateway: GatewayProcess, key: str, status: int) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        headers = {"authorization": f"Bearer {key}"}
        async with plain_http.client(gateway.url) as client:
            return (await client.get("/v1/models", headers=headers)).status_code == status

    return asked


async def test_keys_in_secrets_open_from_when_they_are_there_until_they_are_gone(
    gateway: GatewayProcess, kube: Kube
) -> None:
    assert await answers(gateway, "sk-any", 200)()
    kube.create(tenant(kube, "team", {"name": "old"}, {"name": "new"}))
    await gateway.until(answers(gateway, "sk-any", 401))
    kube.create(secret(kube, "old", "sk-old"))
    await gateway.until(answers(gateway, "sk-old", 200))
    kube.create(secret(kube, "new", "sk-new"))
    await gateway.until(answers(gateway, "sk-new", 200))
    kube.delete("Secret", "old")
    await gateway.until(answers(gateway, "sk-old", 401), patience=30)
    assert await answers(gateway, "sk-new", 200)()

    async def told() -> bool:
        return "the Secret 'old' is not there" in gateway.said()

    await gateway.until(told)
    kube.delete("Tenant", "team")
    await gateway.until(answers(gateway, "sk-any", 200))


async def test_a_gateway_that_loses_the_api_server_keeps_its_tenants(
    gateway: GatewayProcess, kube: Kube, proxy: ApiProxy
) -> None:
    kube.create(tenant(kube, "team", {"sha256": hash_of("sk-team")}))
    await gateway.until(answers(gateway, "sk-any", 401))
    proxy.go_away()

    async def noticed() -> bool:
        return "keeping the last" in gateway.said()

    await gateway.until(noticed)
    assert await answers(gateway, "sk-team", 200)()
    assert await answers(gateway, "sk-any", 401)()
    kube.delete("Tenant", "team")
    proxy.come_back()
    await gateway.until(answers(gateway, "sk-any", 200))


async def test_it_reads_what_the_chart_lets_it_read_and_nothing_else(
    gateway: GatewayProcess, kube: Kube, proxy: ApiProxy
) -> None:
    allowed = {
        (resource, verb)
        for resource in ("inferencedeployments", "pods", "tenants", "secrets")
        for verb in ("list", "watch")
    }

    def called() -> set[tuple[str, str]]:
        return {(call.resource, call.verb) for call in proxy.calls}

    async def all_of_it() -> bool:
        return called() >= allowed

    await gateway.until(all_of_it)
    assert called() == allowed
