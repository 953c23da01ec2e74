"""Asks vLLM for the text of token ids, where a stream may not have shown all of it."""

from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from penstock_contract.fleet import FleetWorker
from penstock_gateway.relay.context import AdmittedRequest, RelayContext
from penstock_gateway.relay.request import worker_request
from penstock_gateway.relay.send import send

PATH: Final = "/detokenize"


async def text_of(
    context: RelayContext,
    admitted: AdmittedRequest,
    request_id: str,
    worker: FleetWorker,
    ids: bytes,
) -> str:
    """Return the text of some ids, as a worker reads them; nothing when it does not say.

    Args:
        context: of the gateway.
        admitted: the request that they answer.
        request_id: its id.
        worker: to ask.
        ids: as in a JSON list.

    Raises:
        UpstreamError: it did not answer.
        StarvedError: the gateway cannot connect to anybody.
    """
    body = b'{"model":%b,"tokens":[%b]}' % (orjson.dumps(admitted.parsed.model), ids)
    host = urlsplit(worker.url).netloc
    data = worker_request(PATH, host, request_id, [], body, context.token)
    connection, response = await send(context, admitted.metrics, worker, data)
    try:
        answer = b""
        while piece := await connection.piece():
            answer += piece
    finally:
        context.watchdog.end(worker.id, connection)
        context.pool.give_back(worker.url, connection)
    return _text(answer) if response.status == 200 else ""


def _text(answer: bytes) -> str:
    try:
        found: Any = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return ""
    text = found.get("prompt") if isinstance(found, dict) else None
    return text if isinstance(text, str) else ""
