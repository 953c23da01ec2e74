"""Watching one process over HTTP: is it up, can it compute, is it still well.

`/health` says that a server answers; only a token, or a vector, says that a worker can serve. Both
are asked before it is called ready, and health from then on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import httpx

from penstock_contract.adapters import MODELS
from penstock_contract.proofs import NOT_THIS, proofs

STARTING_PAUSE = 0.1
READY_PAUSE = 1.0
HEALTH_TIMEOUT = 5.0
TOKEN_TIMEOUT = 120.0
"""Seconds. The first token may have to wait for compilation and warm-up."""


class Prober:
    """Asks one server. `ready` and `healthy` are called back as the answers come."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        model: str | None,
        *,
        ready: Callable[[], None],
        healthy: Callable[[], None],
        settled: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """`model` is the served name to ask for a token of; None asks for health only.

        `settled` says whether a worker that computes has all else that it is to have.
        """
        self._client = client
        self._url = url
        self._model = model
        self._ready = ready
        self._healthy = healthy
        self._settled = settled

    async def run(self) -> None:
        """Probe until cancelled."""
        await self._until(self._health)
        if self._model is not None:
            model = self._model
            await self._until(lambda: computes(self._client, self._url, model))
        if self._settled is not None:
            await self._until(self._settled)
        self._ready()
        while True:
            await asyncio.sleep(READY_PAUSE)
            if await self._health():
                self._healthy()

    async def _until(self, passed: Callable[[], Awaitable[bool]]) -> None:
        while not await passed():  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(STARTING_PAUSE)

    async def _health(self) -> bool:
        try:
            answer = await self._client.get(f"{self._url}/health", timeout=HEALTH_TIMEOUT)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK


async def serves(client: httpx.AsyncClient, url: str, model: str) -> bool:
    """Whether a gateway in front of proven workers serves a model, to those who have a key."""
    return await _asked_for_proof(client, url, model) in (httpx.codes.OK, httpx.codes.UNAUTHORIZED)


async def lists(
    client: httpx.AsyncClient, url: str, adapters: Mapping[str, Collection[str]]
) -> bool:
    """Whether a gateway knows of models just the adapters that are said to be theirs now.

    Whom it shows nothing, for want of a key, it says so; that must do.
    """
    try:
        answer = await client.get(f"{url}{MODELS}", timeout=HEALTH_TIMEOUT)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            return True
        answer.raise_for_status()
        found: dict[str, set[str]] = {name: set() for name in adapters}
        for model in answer.json()["data"]:
            if (parent := model.get("parent")) in found:
                found[parent].add(model["id"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
    return all(names == set(adapters[name]) for name, names in found.items())


async def computes(client: httpx.AsyncClient, url: str, model: str) -> bool:
    """Whether a model answers what it is for, with a token or a vector: the only proof."""
    return await _asked_for_proof(client, url, model) == httpx.codes.OK


async def _asked_for_proof(client: httpx.AsyncClient, url: str, model: str) -> int:
    """Return the status of the answer that says most; 0 when there is none."""
    status = 0
    for path, kind, body in proofs(model):
        sent = {"content-type": kind}
        try:
            answer = await client.post(
                f"{url}{path}", content=body, headers=sent, timeout=TOKEN_TIMEOUT
            )
        except httpx.HTTPError:
            return 0
        status = answer.status_code
        if status not in NOT_THIS:
            break
    return status
