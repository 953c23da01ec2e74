"""What the agent asks of its engine, Penstock's or vLLM's: both have the same routes."""

from collections.abc import Mapping

import httpx

from penstock_contract.adapter_routes import listed, load_body, refusal, unload_body
from penstock_contract.adapters import LOAD, MODELS, UNLOAD
from penstock_contract.worker_token import WorkerTokens

ASK_TIMEOUT = 5.0
LOAD_TIMEOUT = 600.0
"""Seconds: vLLM reads an adapter before it answers, and may read it from a slow volume."""


class EngineAway(Exception):
    """The engine does not answer: it starts, or has ended."""


class EngineSlow(Exception):
    """The engine has not answered this once; it is the same one for all that is known."""


class EngineRoutes:
    """An engine.

    Args:
        client: asks it.
        url: its address.
        tokens: that it asks for.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, tokens: WorkerTokens) -> None:
        self._client = client
        self._url = url
        self._headers = dict(tokens.headers())

    async def loaded(self) -> dict[str, str]:
        """Return the folders of its adapters, by name.

        Raises:
            EngineAway: it does not serve.
            EngineSlow: it does not answer in time, or a connection broke: a new one tells more.
        """
        try:
            health = await self._client.get(f"{self._url}/health", timeout=ASK_TIMEOUT)
            answer = await self._client.get(
                f"{self._url}{MODELS}", headers=self._headers, timeout=ASK_TIMEOUT
            )
            health.raise_for_status()
            answer.raise_for_status()
            return listed(answer.json())
        except (httpx.ConnectError, httpx.HTTPStatusError) as error:
            raise EngineAway(str(error)) from error
        except httpx.HTTPError as error:
            raise EngineSlow(str(error)) from error
        except ValueError as error:
            raise EngineAway(str(error)) from error

    async def load(self, name: str, folder: str, *, again: bool) -> str:
        """Load an adapter; return what is wrong, or nothing.

        Args:
            name: of the adapter.
            folder: its files.
            again: put it in the place of the one of this name.
        """
        return await self._post(LOAD, load_body(name, folder, again=again))

    async def unload(self, name: str) -> str:
        """Unload an adapter; return what is wrong, or nothing."""
        return await self._post(UNLOAD, unload_body(name))

    async def _post(self, path: str, body: Mapping[str, object]) -> str:
        try:
            answer = await self._client.post(
                f"{self._url}{path}", json=body, headers=self._headers, timeout=LOAD_TIMEOUT
            )
        except httpx.TimeoutException as error:
            raise EngineSlow(str(error)) from error
        except httpx.HTTPError as error:
            raise EngineAway(str(error)) from error
        return "" if answer.is_success else refusal(answer.status_code, answer.content)
