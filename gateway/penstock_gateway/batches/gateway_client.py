"""Asks the gateway for one request of a batch, and says what its answer means."""

import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

import httpx
import orjson

from penstock_contract import headers
from penstock_contract.on_behalf import Seals, Ticket, Towards, work
from penstock_gateway.batches.lines import Request

MAX_ANSWER: Final = 64 << 20
"""Bytes."""
ANSWER_SECONDS: Final = 1800.0
"""Nothing is heard of an answer until it is whole."""
NOT_NOW: Final = frozenset((401, 408, 409, 429, 503))
"""Refusals that say nothing of the request: it is asked again for as long as its batch lasts. 401
is about the ticket: the gateway has just started, or the token is being replaced."""
TRIES: Final = 3
"""Failures that end a request."""


class Fate(Enum):
    """What becomes of a request after an answer."""

    DONE = "done"
    LATER = "later"
    """There is no room now."""
    AGAIN = "again"
    """It may have been bad luck."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    """Of HTTP; 0: the gateway did not answer."""
    body: bytes = b"null"
    """JSON in one line."""
    request_id: str = ""
    retry_after: float = 0.0
    """Seconds; 0: it does not say."""

    @property
    def ok(self) -> bool:
        """Whether the request was answered."""
        return 200 <= self.status < 300


def fate(status: int, failures: int) -> Fate:
    """Return what becomes of a request that was answered so, after so many failures before."""
    if status == 0 or status in NOT_NOW:
        return Fate.LATER
    if status >= 500 and failures + 1 < TRIES:
        return Fate.AGAIN
    return Fate.DONE


class GatewayClient:
    """Sends requests for tenants.

    Args:
        url: of the gateway.
        seals: that it shares with us.
        most: connections.
    """

    def __init__(self, url: str, seals: Seals, most: int) -> None:
        self._seals = seals
        self._under_way = Counter[str]()
        """Requests by their model."""
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        patience = httpx.Timeout(10.0, read=ANSWER_SECONDS, pool=None)
        self._client = httpx.AsyncClient(
            base_url=url, limits=limits, timeout=patience, trust_env=False
        )

    async def ask(self, tenant: str, endpoint: str, request: Request) -> Answer:
        """Return the gateway's answer to a request."""
        content = request.content
        ticket = Ticket(tenant, work("POST", endpoint, content))
        self._under_way[request.model] += 1
        own = {
            headers.ON_BEHALF: self._seals.seal(Towards.GATEWAY, ticket, time.time()),
            headers.BATCH_IN_FLIGHT: str(self._under_way[request.model]),
            "content-type": "application/json",
        }
        try:
            async with self._client.stream("POST", endpoint, content=content, headers=own) as found:
                return await _answer(found)
        except httpx.HTTPError:
            return Answer(0)
        finally:
            self._under_way[request.model] -= 1
            if not self._under_way[request.model]:
                del self._under_way[request.model]

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()


async def _answer(found: httpx.Response) -> Answer:
    data = bytearray()
    async for piece in found.aiter_bytes():
        data += piece
        if len(data) > MAX_ANSWER:
            return Answer(502, _error("the answer is too long"))
    try:
        body = orjson.dumps(orjson.loads(data))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter: nested too deeply
        return Answer(max(502, found.status_code), _error("the answer is not JSON"))
    request_id = found.headers.get(headers.REQUEST_ID, "")
    return Answer(found.status_code, body, request_id, _retry_after(found.headers))


def _retry_after(found: httpx.Headers) -> float:
    try:
        return max(0.0, float(found.get("retry-after-ms", "")) / 1000)
    except ValueError:
        return 0.0


def _error(message: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return orjson.dumps({"error": error})
