"""Serves the completion routes at protocol level; errors have the same shape as the app's."""

import logging
import traceback

import orjson

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.dialect import TranslatedCall
from penstock_gateway.messages import MESSAGES
from penstock_gateway.relay.call import Call, Serve
from penstock_gateway.relay.relay import Relay
from penstock_gateway.responses import RESPONSES

log = logging.getLogger("penstock.gateway")

DIALECTS = {dialect.path: dialect for dialect in (MESSAGES, RESPONSES)}


def completions(relay: Relay) -> Serve:
    """Return what serves the POST requests to `RELAYED`, which never reach the app."""

    async def serve(client: Call) -> None:
        dialect = DIALECTS.get(client.path)
        call = TranslatedCall(client, dialect) if dialect else client
        try:
            await relay.handle(call)
        except ApiError as error:
            _refuse(call, error)
        except Exception as error:
            _refuse(call, bug(error))

    return serve


def _refuse(call: Call, error: ApiError) -> None:
    """Answer a call that was not relayed; one whose answer has begun just ends."""
    if call.begun:
        return
    own = headers.request_id(call.header(headers.REQUEST_ID.encode()))
    body = orjson.dumps(error.body())
    found = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers(),
        headers.REQUEST_ID: own,
    }
    call.begin(error.code.status, [(k.encode(), v.encode()) for k, v in found.items()])
    call.write(body)
    call.end()


def bug(error: Exception) -> ApiError:
    """Log an unexpected exception without its text, which may quote a prompt."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, where.filename, where.lineno)
    return ApiError(ErrorCode.INTERNAL_ERROR, "the gateway failed on this request")
