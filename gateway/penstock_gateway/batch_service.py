"""Hands requests for files and batches on to the batch service, which knows no API keys.

It is told the tenant's name, sealed. Bodies pass through piece by piece in both directions, and
nothing of a head but what is named here.
"""

import logging
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.on_behalf import Seals, Ticket, Towards, work
from penstock_gateway.tenants.tenant_request import TenantRequest

log = logging.getLogger("penstock.gateway.batches")

RETRY_AFTER: Final = 2.0
"""Seconds; about what a service that is started again needs."""
_ASKED: Final = ("content-type", "content-length")
_ANSWERED: Final = ("content-type", "content-length", "retry-after", "retry-after-ms")


class BatchService:
    """The service, as the gateway reaches it.

    Args:
        url: of the service.
        seals: that it shares with us.
    """

    def __init__(self, url: str, seals: Seals) -> None:
        self._seals = seals
        patience = httpx.Timeout(30.0, connect=5.0)
        self._client = httpx.AsyncClient(base_url=url, timeout=patience, trust_env=False)

    async def ask(self, request: Request, asked: TenantRequest) -> Response:
        """Return the service's answer to a tenant.

        Raises:
            ApiError: it does not answer, or not to this gateway.
        """
        found = request.headers
        own = {name: value for name in _ASKED if (value := found.get(name)) is not None}
        method, path = request.method, request.url.path
        # Not the body: an upload is passed on before it is whole.
        ticket = Ticket(asked.tenant.id, work(method, path))
        own[headers.ON_BEHALF] = self._seals.seal(Towards.BATCHES, ticket, time.time())
        handed_on = self._client.build_request(
            method,
            path,
            params=str(request.query_params) or None,
            headers=own,
            content=request.stream() if method == "POST" else None,
        )
        try:
            answer = await self._client.send(handed_on, stream=True)
        except httpx.HTTPError as error:
            log.warning("the batch service does not answer: %s", type(error).__name__)
            raise _away("does not answer") from error
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await answer.aclose()
            log.warning("the batch service has another token, or is of another version")
            raise _away("does not know this gateway")
        passed = {name: value for name in _ANSWERED if (value := answer.headers.get(name))}
        passed[headers.REQUEST_ID] = headers.request_id(found.get(headers.REQUEST_ID))
        passed |= dict(asked.told_headers)
        return StreamingResponse(_body(answer), answer.status_code, passed)


def _away(why: str) -> ApiError:
    message = f"The batch service {why}; try again soon."
    return ApiError(ErrorCode.NO_CAPACITY, message, retry_after=RETRY_AFTER)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
