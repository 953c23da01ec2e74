"""What a tenant is charged for a stream that several workers served: what its client got, once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from accidents import Accidents
from fault_proxy import FaultProxy
from stream_auditor import Recording, audit, record
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.api_keys import hash_of

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
KEY = "sk-team"
TENANT = {
    "apiVersion": "penstock.dev/v1alpha1",
    "kind": "Tenant",
    "metadata": {"name": "team"},
    "spec": {"apiKeys": [{"sha256": hash_of(KEY)}]},
}
BREAKS = [(), (100,), (2500,), (1200, 1500), (1800, 2400)]
"""Bytes of answer after which the first worker breaks, and the second; the second gets further."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("worker")
    with worker(folder / "log", "--dtype", "float32") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture
async def metered(gateway: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A gateway that knows a tenant."""
    folder = tmp_path / "metered"
    folder.mkdir()
    (folder / "tenants.yaml").write_text(yaml.safe_dump(TENANT))
    found = type(gateway)(folder, "--tenants", folder / "tenants.yaml", "--require-keys")
    try:
        await found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
async def accidents(metered: Any, served: WorkerProcess) -> AsyncIterator[Accidents]:
    port = urlsplit(served.url).port or 0
    async with FaultProxy(port) as one, FaultProxy(port) as two, FaultProxy(port) as three:
        await metered.serve(one.url, two.url, three.url)
        yield Accidents(one, two, three)


async def ask(gateway: Any, number: int, **options: Any) -> Recording:
    """Return a stream; each number has a prompt of its own, and all are of one length."""
    text = f"({number}) What does sorted() return?"
    common = {"model": NAME, "stream": True, "max_tokens": 24, "ignore_eos": True, "seed": 7}
    body = {**common, "messages": [{"role": "user", "content": text}], **options}
    return await record(gateway.url, CHAT, body, headers={"authorization": f"Bearer {KEY}"})


class Charged:
    """How many tokens and requests a tenant is charged, since this was made."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway
        self._before = (0.0, 0.0)

    async def begin(self) -> None:
        self._before = await self._now()

    async def after(self, requests: int) -> float:
        """Return the tokens of so many requests, once these have ended."""

        async def ended() -> bool:
            return (await self._now())[1] - self._before[1] >= requests

        await self._gateway.until(ended)
        tokens, count = await self._now()
        assert count - self._before[1] == requests
        return tokens - self._before[0]

    async def _now(self) -> tuple[float, float]:
        names = ("penstock_gateway_tenant_tokens_total", "penstock_gateway_tenant_requests_total")
        tokens, requests = [await self._gateway.metric(name, tenant="team") for name in names]
        return tokens, requests


@pytest.mark.parametrize("usage", [True, False], ids=["usage told", "usage estimated"])
@pytest.mark.parametrize("choices", [1, 2])
async def test_a_stream_that_moved_is_charged_once(
    metered: Any, accidents: Accidents, usage: bool, choices: int
) -> None:
    options = {"n": choices, "stream_options": {"include_usage": usage}}
    charged, prices, cuts = Charged(metered), set(), []
    for number, broken in enumerate(BREAKS):
        accidents.bytes, before = broken, accidents.happened
        await charged.begin()
        stream = await ask(metered, number, **options)
        cuts.append(accidents.happened - before)
        verdict = audit(stream, include_usage=usage, choices=choices)
        assert (verdict.outcome, verdict.violations) == ("complete", [])
        price = await charged.after(requests=1)
        prices.add(price)
        if verdict.usage:
            assert price == verdict.usage["total_tokens"]
            assert verdict.usage["completion_tokens"] == 24 * choices
    # A kept connection that breaks before anything came is tried anew: one break more.
    assert all(cut >= len(broken) for cut, broken in zip(cuts, BREAKS, strict=True))
    assert len(prices) == 1
