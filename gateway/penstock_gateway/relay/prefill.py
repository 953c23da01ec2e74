"""Has a prompt computed by one worker so that another one can decode it (docs/disaggregation.md).

Whatever goes wrong here costs time only: the worker that decodes then computes the prompt itself.
"""

import logging
import random
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from penstock_contract import headers
from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault, Prefill
from penstock_gateway.relay.context import AdmittedRequest, RelayContext, RequestProgress
from penstock_gateway.relay.handoff import params_of, prefill_body
from penstock_gateway.relay.leases import Handoff
from penstock_gateway.relay.request import worker_request
from penstock_gateway.relay.response import UpstreamError
from penstock_gateway.relay.send import send
from penstock_gateway.relay.upstream import Connection
from penstock_gateway.routing.disaggregate import decide_prefill
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prompt_usage import PromptUsage, of_answer
from penstock_gateway.routing.ticket import Ticket

log = logging.getLogger("penstock.gateway.prefill")

CHAT: Final = "/v1/chat/completions"
PATHS: Final = (CHAT, "/v1/completions")
MAX_ANSWER: Final = 4 << 20
_EPOCH: Final = headers.EPOCH.encode()


async def hand_over(
    context: RelayContext,
    admitted: AdmittedRequest,
    progress: RequestProgress,
    workers: Sequence[FleetWorker],
    decode: Choice,
) -> Handoff | None:
    """Return where a prompt's KV is; None when it is computed where it is decoded.

    Args:
        context: of the gateway.
        admitted: the request.
        progress: how far it has come.
        workers: that compute prompts; may be none.
        decode: the worker that would decode, if it were chosen now.
    """
    if not workers or not admitted.parsed.splits or admitted.call.path not in PATHS:
        return None
    now = context.clock()
    rank = context.router.rank(
        workers, admitted.prompt, tie=random.random(), now=now, policy=admitted.model.policy
    )
    decision = decide_prefill(admitted.model.disaggregation, decode, rank[0])
    if decision.outcome is not Prefill.HANDED_OVER:
        admitted.metrics.prefill(decision.outcome)
        return None
    worker = next(found for found in workers if found.id == rank[0].id)
    return await _ask(context, admitted, progress, worker, rank[0])


async def _ask(
    context: RelayContext,
    admitted: AdmittedRequest,
    progress: RequestProgress,
    worker: FleetWorker,
    choice: Choice,
) -> Handoff | None:
    """Have a worker compute the prompt, and account for how it did."""
    ticket = context.router.take(choice, admitted.prompt.told_by(stream=True), context.clock())
    connection: Connection | None = None
    fault: Fault | None = None
    outcome: Prefill | None = None  # a client that leaves says nothing about the worker
    try:
        data = _data(context, admitted, progress, worker)
        connection, response = await send(context, admitted.metrics, worker, data)
        answer = await _whole(connection)
        outcome = Prefill.FAILED
        if response.status != 200:  # a refusal of the request is for the decode worker to repeat
            fault = Fault.REFUSED if response.status >= 500 else None
            return None
        epoch = response.header(_EPOCH)
        context.router.answered(ticket, context.clock(), of_answer(answer) or PromptUsage(), epoch)
        params = params_of(answer)
        outcome = Prefill.HANDED_OVER if params else Prefill.NO_LEASE
        return Handoff(worker, params) if params else None
    except UpstreamError as error:
        log.warning("worker %s did not compute a prompt: %s", worker.id, error)
        fault, outcome = error.fault, Prefill.FAILED
        return None
    finally:
        _account(context, admitted, ticket, outcome, fault)
        if connection is not None:
            context.watchdog.end(worker.id, connection)
            context.pool.give_back(worker.url, connection)


def _account(
    context: RelayContext,
    admitted: AdmittedRequest,
    ticket: Ticket,
    outcome: Prefill | None,
    fault: Fault | None,
) -> None:
    now = context.clock()
    down = fault is not None and fault is not Fault.REFUSED
    context.router.ended(
        ticket,
        counts=outcome is not None,
        failed=fault is not None,
        down_at=now if down else None,
        erred_at=now if fault is not None else None,
    )
    if outcome is not None:
        admitted.metrics.prefill(outcome)
    if fault is not None:
        admitted.metrics.fault(fault)


def _data(
    context: RelayContext, admitted: AdmittedRequest, progress: RequestProgress, worker: FleetWorker
) -> bytes:
    path = admitted.call.path
    own = [*context.token, *admitted.tenant_request.trusted_headers, (headers.HANDOFF, "1")]
    body = prefill_body(admitted.body, chat=path == CHAT)
    host = urlsplit(worker.url).netloc
    return worker_request(path, host, progress.id, admitted.call.headers, body, own)


async def _whole(connection: Connection) -> bytes:
    found = b""
    while data := await connection.piece():
        found += data
        if len(found) > MAX_ANSWER:
            raise UpstreamError("its answer has no end", Fault.GARBAGE)
    return found
