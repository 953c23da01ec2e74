"""Tenants at a real gateway: who is let in, what a worker hears of it, and what it costs others."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import plain_http
import pytest
from stub_worker import StubWorker
from tenants_file import TenantsFile
from vllm_stand_in import VllmStandIn, prompt_of

from penstock_contract.api.engine import EngineType
from penstock_contract.fleet import FleetClass, FleetQueue
from penstock_gateway.tenants.source import POLL_SECONDS

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
CLASSES = tuple(
    FleetClass(name=name, priority=priority)
    for name, priority in (("batch", -10), ("standard", 0), ("interactive", 100))
)
QUEUE = FleetQueue(per_worker=8, max_requests=8, timeout=120, classes=CLASSES, default=CLASSES[1])


class Closed:
    """A gateway, its tenants, and how to ask it."""

    def __init__(self, gateway: Any, tenants: TenantsFile) -> None:
        self.gateway = gateway
        self.tenants = tenants

    async def admit(self, **specs: dict[str, Any]) -> None:
        """Write tenants and wait until the gateway knows them."""
        self.tenants.write(known={}, **specs)
        for name in ("known", *specs):
            await self.gateway.until(lambda name=name: self.opens(name))

    async def opens(self, name: str) -> bool:
        return (await self.get("/v1/models", name)).status_code == 200

    async def get(self, path: str, name: str | None) -> httpx.Response:
        async with plain_http.client(self.gateway.url) as client:
            return await client.get(path, headers=key(name))

    async def ask(self, name: str | None, path: str = CHAT, **fields: Any) -> httpx.Response:
        async with plain_http.client(self.gateway.url) as client:
            return await client.post(path, json={**BODY, **fields}, headers=key(name))


def key(name: str | None) -> dict[str, str]:
    return {} if name is None else {"authorization": f"Bearer sk-{name}"}


@pytest.fixture
async def closed(gateway: Any, tmp_path: Path) -> AsyncIterator[Closed]:
    folder = tmp_path / "closed"
    folder.mkdir()
    tenants = TenantsFile(folder / "tenants.yaml")
    found = type(gateway)(folder, "--tenants", tenants.path, "--require-keys", "--debug-headers")
    try:
        await found.start()
        yield Closed(found, tenants)
    finally:
        found.stop()


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/detokenize"])
async def test_without_a_known_key_nothing_is_read_and_nothing_is_started(
    closed: Closed, path: str
) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={})
        for name in (None, "stranger"):
            answer = await closed.ask(name, path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        # The answer comes although the body never does.
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n"
        assert (await closed.gateway.raw(head.encode(), quiet=1)).startswith(b"HTTP/1.1 401 ")
        assert not worker.seen
        assert await closed.gateway.metric("penstock_gateway_arrivals_total") == 0
        code = {"code": "invalid_api_key"}
        assert await closed.gateway.metric("penstock_gateway_refusals_total", **code) == 3


async def test_the_official_client_is_let_in_by_its_key(closed: Closed) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={})
        url = f"{closed.gateway.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-team") as client:
            assert [model.id async for model in client.models.list()] == [
                "m",
                "org/alias",
                "sql",
            ]
            await client.chat.completions.create(model="m", messages=[])
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-no") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


async def test_what_probes_and_monitoring_ask_for_needs_no_key(closed: Closed) -> None:
    for path in ("/health", "/livez", "/ping", "/version", "/metrics"):
        assert (await closed.get(path, None)).status_code == 200


async def test_a_forbidden_model_is_one_that_does_not_exist(closed: Closed) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={"models": ["org/alias"]}, other={"models": ["x"]})
        assert [m["id"] for m in (await closed.get("/v1/models", "team")).json()["data"]] == [
            "org/alias"
        ]
        assert (await closed.ask("team", model="org/alias")).status_code == 200
        forbidden, absent = await closed.ask("other"), await closed.ask("other", model="nobody")
        assert forbidden.status_code == absent.status_code == 404
        assert forbidden.text.replace("'m'", "'nobody'") == absent.text
        assert (await closed.get("/v1/models/m", "other")).status_code == 404
        assert len(worker.seen) == 1


async def test_a_worker_hears_the_tenants_salt_and_priority_and_no_forged_ones(
    closed: Closed,
) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker, queue=QUEUE)
        await closed.admit(
            one={"requestClasses": ["interactive"]},
            two={"requestClasses": ["batch"]},
            three={"cacheIsolation": False},
        )
        forged = {"x-penstock-cache-salt": "mine", "x-penstock-priority": "999",
                  "x-penstock-journal": "1", "X-Penstock-Anything": "x"}  # fmt: skip
        heard: list[dict[str, str]] = []
        for name in ("one", "two", "three"):
            tier = "interactive" if name == "one" else "auto"
            async with plain_http.client(closed.gateway.url) as client:
                body = {**BODY, "service_tier": tier}
                answer = await client.post(CHAT, json=body, headers={**key(name), **forged})
            assert answer.status_code == 200
            lines = worker.seen[-1].head.decode().lower().split("\r\n")[1:]
            heard.append(dict(line.split(": ", 1) for line in lines if line))
        assert [found["x-penstock-priority"] for found in heard] == ["100", "-10", "0"]
        salts = [found["x-penstock-cache-salt"] for found in heard]
        assert len(set(salts)) == 3
        assert "mine" not in salts
        for found in heard:
            assert "x-penstock-anything" not in found
            assert "authorization" not in found
            assert len(found["x-penstock-cache-salt"]) <= 64


async def test_a_class_that_is_not_open_is_403(closed: Closed) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker, queue=QUEUE)
        await closed.admit(team={})
        answer = await closed.ask("team", service_tier="interactive")
        assert answer.status_code == 403
        assert answer.json()["error"]["param"] == "service_tier"
        labels = {"tenant": "team", "code": "permission_denied"}
        refused = await closed.gateway.metric("penstock_gateway_tenant_refusals_total", **labels)
        assert refused == 1


async def test_requests_per_minute_are_told_and_kept(closed: Closed) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={"limits": {"requestsPerMinute": 2}}, other={})
        first, second, third = [await closed.ask("team") for _ in range(3)]
        assert [a.status_code for a in (first, second, third)] == [200, 200, 429]
        left = [a.headers["x-ratelimit-remaining-requests"] for a in (first, second, third)]
        assert left == ["1", "0", "0"]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert third.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(third.headers["retry-after"]) <= 30
        assert "x-ratelimit-limit-tokens" not in first.headers
        assert (await closed.ask("other")).status_code == 200
        assert len(worker.seen) == 3


async def test_tokens_are_reserved_and_what_was_not_used_comes_back(closed: Closed) -> None:
    class Counting(StubWorker):
        async def _counted(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            body = b'{"choices":[],"usage":{"prompt_tokens":3,"total_tokens":40}}'
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            await writer.drain()
            return True

    async with Counting("counted") as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={"limits": {"tokensPerMinute": 1000}})
        first = await closed.ask("team", max_tokens=900)
        assert int(first.headers["x-ratelimit-remaining-tokens"]) < 100
        second = await closed.ask("team", max_tokens=900)
        assert second.status_code == 200, "940 of 1000 were left after all"
        third = await closed.ask("team", max_tokens=990)
        assert third.status_code == 429
        assert third.headers["x-ratelimit-limit-tokens"] == "1000"
        used = await closed.gateway.metric("penstock_gateway_tenant_tokens_total", tenant="team")
        assert used == 80


async def test_tokens_of_a_stream_of_vllm_are_counted_by_their_ids(closed: Closed) -> None:
    async with VllmStandIn(per_event=5) as worker:
        await closed.gateway.serve(worker, engine=EngineType.VLLM)
        await closed.admit(team={})
        answer = await closed.ask("team", stream=True, max_tokens=20)
        assert answer.text.count("data: {") < 20
        used = len(prompt_of(BODY)) + 20

        async def counted() -> bool:
            name = "penstock_gateway_tenant_tokens_total"
            return bool(await closed.gateway.metric(name, tenant="team") == used)

        await closed.gateway.until(counted)


async def test_concurrency_is_kept_and_freed_by_those_who_leave(closed: Closed) -> None:
    async with StubWorker("paused") as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={"limits": {"concurrency": 1}})
        first = asyncio.create_task(closed.ask("team", stream=True))

        async def under_way() -> bool:
            return bool(worker.seen)

        await closed.gateway.until(under_way)
        assert (await closed.ask("team")).status_code == 429
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        worker.release.set()

        async def free() -> bool:
            return (await closed.ask("team")).status_code == 200

        await closed.gateway.until(free)


async def test_debug_headers_are_for_tenants_who_may_debug(closed: Closed) -> None:
    async with StubWorker() as worker:
        await closed.gateway.serve(worker)
        await closed.admit(team={}, admin={"debug": True})
        assert "x-penstock-worker" not in (await closed.ask("team")).headers
        assert "x-penstock-worker" in (await closed.ask("admin")).headers


async def test_a_revoked_key_opens_nothing_soon_after(closed: Closed) -> None:
    assert POLL_SECONDS <= 1
    await closed.admit(team={})
    closed.tenants.write(known={})

    async def refused() -> bool:
        return not await closed.opens("team")

    await closed.gateway.until(refused)
    damaged = closed.tenants.path.with_suffix(".damaged")
    damaged.write_text("{")
    damaged.replace(closed.tenants.path)

    async def noticed() -> bool:
        return "keeping the last tenants" in closed.gateway.said()

    await closed.gateway.until(noticed)
    assert await closed.opens("known")
    assert not await closed.opens("team")


async def test_waiting_tenants_share_by_weight(closed: Closed) -> None:
    """While one request of capacity is taken, both queue; then they leave 3 : 1."""

    class Slow(StubWorker):
        async def _waits(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await self.release.wait()
            return await self._json(_, writer)

    queue = QUEUE.model_copy(update={"per_worker": 1, "max_requests": 100})
    async with Slow("waits") as worker:
        await closed.gateway.serve(worker, queue=queue)
        await closed.admit(big={"weight": 3}, small={"weight": 1})
        asking = [asyncio.create_task(closed.ask("big"))]
        asking += [asyncio.create_task(closed.ask("small", user=f"s{n}")) for n in range(16)]

        async def queued(count: int) -> bool:
            return bool(await closed.gateway.metric("penstock_gateway_queued") == count)

        await closed.gateway.until(lambda: queued(16))
        asking += [asyncio.create_task(closed.ask("big", user=f"b{n}")) for n in range(16)]
        await closed.gateway.until(lambda: queued(32))
        worker.release.set()
        await asyncio.gather(*asking)
        order = [json.loads(seen.body).get("user", "")[:1] for seen in worker.seen[1:17]]
        assert 10 <= order.count("b") <= 13


async def test_a_tenant_that_floods_the_line_is_refused_itself_and_not_the_others(
    closed: Closed,
) -> None:
    queue = QUEUE.model_copy(update={"per_worker": 1, "max_requests": 10})
    async with StubWorker("paused") as worker:
        await closed.gateway.serve(worker, queue=queue)
        await closed.admit(flood={}, calm={})
        flood = [asyncio.create_task(closed.ask("flood")) for _ in range(30)]

        async def full() -> bool:
            queued = await closed.gateway.metric("penstock_gateway_queued")
            code = {"code": "no_capacity"}
            refused = await closed.gateway.metric("penstock_gateway_refusals_total", **code)
            return bool(queued == 10 and refused == 19)

        await closed.gateway.until(full)
        calm = asyncio.create_task(closed.ask("calm"))

        async def let_in() -> bool:
            return bool(await closed.gateway.metric("penstock_gateway_outcomes_total") == 1)

        await closed.gateway.until(let_in)  # one of the flood went instead
        worker.release.set()
        assert (await calm).status_code == 200
        statuses = [answer.status_code for answer in await asyncio.gather(*flood)]
        assert statuses.count(200) == 10


async def test_nothing_that_a_tenant_sends_is_logged(closed: Closed) -> None:
    canary = "canary-7c1f"
    async with StubWorker() as worker, StubWorker("die") as bad:
        await closed.gateway.serve(worker, bad)
        await closed.admit(team={})
        for body in ({"user": canary}, {"model": canary}, {"service_tier": canary}):
            await closed.ask("team", **body)
            await closed.ask(canary, **body)
        assert canary not in closed.gateway.said()
        assert canary not in (await closed.get("/metrics", None)).text
        assert "sk-team" not in closed.gateway.said()
