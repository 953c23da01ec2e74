"""HTTP header names and formats between client, gateway and worker.

Client-sent `x-penstock-*` headers are dropped at the gateway: inside, they are trusted.
"""

import random
import re
from typing import Final

REQUEST_ID: Final = "x-request-id"
"""The caller's own id when it matches REQUEST_ID_PATTERN, else one made by the gateway."""

REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""Use with fullmatch. Anything else could break log lines or header framing."""


def request_id(found: str | None) -> str:
    """Return the caller's request id if it is harmless, else a new one."""
    if found and REQUEST_ID_PATTERN.fullmatch(found):
        return found
    return f"req-{random.randbytes(16).hex()}"  # not a secret, and a tenth of what uuid4 costs


TRACEPARENT: Final = "traceparent"
"""W3C trace context, handed on to the worker."""
SESSION_AFFINITY: Final = "x-session-affinity"
"""Requests of one session prefer one worker."""

INTERNAL_PREFIX: Final = "x-penstock-"
PRIORITY: Final = "x-penstock-priority"
"""Integer; higher is served first, negative is shed first."""
DEADLINE: Final = "x-penstock-deadline"
"""Seconds that are left for the request, a decimal; relative, since clocks differ between nodes.

A worker gives the request up after them, wherever it is. The gateway sends none, since nobody
bounds a request that runs: time-outs of queues end with the waiting (docs/queueing.md).
"""
TPOT_OBJECTIVE: Final = "x-penstock-tpot-objective"
"""Seconds between two tokens that the deployment asks for (spec.slo.tpot), a decimal.

A worker computes no more prompt tokens in a step than fit beside the requests that decode; without
it, as many as its budget has. vLLM does not know it.
"""
ATTEMPT: Final = "x-penstock-attempt"
"""Integer, from 2 when a request is given to another worker; earlier ones are given up."""
JOURNAL: Final = "x-penstock-journal"
"""Any value: put the resume journal into the stream, and go on where `penstock_resume` in the body
says (penstock_contract.journal)."""
HANDOFF: Final = "x-penstock-handoff"
"""Any value: heed `kv_transfer_params` in the body (penstock_contract.handoff)."""
ON_BEHALF: Final = "x-penstock-on-behalf"
"""Between gateway and batch service, in both directions: for which tenant a request is made, sealed
with the token that they share (penstock_contract.on_behalf). A gateway without a batch service
takes it for a client's and drops it."""
BATCH_IN_FLIGHT: Final = "x-penstock-batch-in-flight"
"""From the batch service: requests for the same model that it has under way, this one included, at
all gateways together. Each of them knows its own only."""
CACHE_SALT: Final = "x-penstock-cache-salt"
"""Tenant's prefix-cache salt; requests with different salts never share KV blocks."""

WORKER: Final = "x-penstock-worker"
"""Response header: the worker that served the request (debugging)."""
EPOCH: Final = "x-penstock-epoch"
"""Response header of a worker: random per start of its engine; index entries never outlive it."""
TTFT_MS: Final = "x-penstock-ttft-ms"
"""Response header of a worker, of an answer that is not streamed: milliseconds until its first
token, which the gateway cannot see."""
ROUTE_REASON: Final = "x-penstock-route-reason"
"""Response header: why the gateway chose that worker (debugging)."""

PROCESSING_MS: Final = "openai-processing-ms"
"""Response header: milliseconds until the response began."""

RATE_LIMIT_REQUESTS: Final = "x-ratelimit-limit-requests"
"""Response header: requests that the tenant may make in a minute."""
RATE_REMAINING_REQUESTS: Final = "x-ratelimit-remaining-requests"
"""Response header: those that are left."""
RATE_RESET_REQUESTS: Final = "x-ratelimit-reset-requests"
"""Response header: when all of them will be there again, like `1m30s`, `6s` or `120ms`."""
RATE_LIMIT_TOKENS: Final = "x-ratelimit-limit-tokens"
"""Response header: tokens of prompts and answers that the tenant may use in a minute."""
RATE_REMAINING_TOKENS: Final = "x-ratelimit-remaining-tokens"
"""Response header: those that are left."""
RATE_RESET_TOKENS: Final = "x-ratelimit-reset-tokens"
"""Response header: when all of them will be there again."""

SSE_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
"""On every stream: nothing between worker and client may buffer, cache or compress it."""
