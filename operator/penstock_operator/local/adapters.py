"""Keeps the adapters of a worker process as they are wanted: what agents do in a cluster.

Their files are on this machine already (`download.fetched`), so there is nothing to wait for but
the engine. Level-triggered: the engine's own list is compared with what is wanted.
"""

import asyncio
from collections.abc import Callable, Mapping

import httpx

from penstock_contract.adapter_routes import NAME_HAD, listed, load_body, refusal, unload_body
from penstock_contract.adapters import (
    LOAD,
    MODELS,
    UNLOAD,
    AdapterFound,
    AdapterReport,
    AdapterState,
)

ROUND_SECONDS = 0.5
AGAIN_ROUNDS = 20
"""Rounds until what failed is tried again."""
ASK_TIMEOUT = 5.0
LOAD_TIMEOUT = 600.0

Folders = Mapping[str, str]
"""Of adapters, by name."""


class AdapterKeeper:
    """The adapters of one worker.

    Args:
        client: asks it.
        url: of the worker.
        wanted: returns what it is to have now.
        by_name: the engine finds KV by the adapter's name alone, as vLLM does: what once had a
            name in it keeps that.
    """

    def __init__(
        self, client: httpx.AsyncClient, url: str, wanted: Callable[[], Folders], *, by_name: bool
    ) -> None:
        self._client = client
        self._url = url
        self._wanted = wanted
        self._by_name = by_name
        self._ever: dict[str, str] = {}
        self._failed: dict[tuple[str, str], tuple[str, int]] = {}
        self.report = AdapterReport()

    async def settle(self) -> bool:
        """Bring what is missing, once; return whether nothing is on its way any more."""
        try:
            loaded = await self._loaded()
            self._ever = loaded | self._ever
            wanted = dict(self._wanted())
            for name in loaded.keys() - wanted.keys():
                await self._post(UNLOAD, unload_body(name))
            for name, folder in wanted.items():
                if loaded.get(name) != folder:
                    await self._bring(name, folder, again=name in loaded)
            self._note(wanted, await self._loaded())
        except (httpx.HTTPError, ValueError):
            return False
        return self.report.tried

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            await self.settle()

    async def _bring(self, name: str, folder: str, *, again: bool) -> None:
        problem, rounds = self._failed.get((name, folder), ("", 0))
        if rounds:
            self._failed[name, folder] = (problem, rounds - 1)
            return
        if self._by_name and self._ever.get(name, folder) != folder:
            problem = NAME_HAD
        else:
            problem = await self._post(LOAD, load_body(name, folder, again=again))
        if problem:
            self._failed[name, folder] = (problem, AGAIN_ROUNDS)
        else:
            self._ever[name] = folder
            self._failed.pop((name, folder), None)

    def _note(self, wanted: Folders, loaded: Folders) -> None:
        self._failed = {place: why for place, why in self._failed.items() if place[0] in wanted}
        found = {
            name: _found(folder, loaded.get(name), self._failed.get((name, folder)))
            for name, folder in wanted.items()
        }
        loading = any(one.state is AdapterState.LOADING for one in found.values())
        self.report = AdapterReport(loaded=tuple(sorted(loaded)), adapters=found, tried=not loading)

    async def _loaded(self) -> dict[str, str]:
        answer = await self._client.get(f"{self._url}{MODELS}", timeout=ASK_TIMEOUT)
        answer.raise_for_status()
        return listed(answer.json())

    async def _post(self, path: str, body: Mapping[str, object]) -> str:
        """Return what is wrong, or nothing."""
        answer = await self._client.post(f"{self._url}{path}", json=body, timeout=LOAD_TIMEOUT)
        return "" if answer.is_success else refusal(answer.status_code, answer.content)


def _found(folder: str, loaded: str | None, failed: tuple[str, int] | None) -> AdapterFound:
    uri = f"file://{folder}"
    if loaded == folder:
        return AdapterFound(state=AdapterState.READY, uri=uri)
    if failed is None:
        return AdapterFound(uri=uri)
    return AdapterFound(state=AdapterState.FAILED, uri=uri, message=failed[0])
