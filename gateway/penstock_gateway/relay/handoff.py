"""What the gateway says and hears when one worker computes a prompt for another. Pure.

The fields are those of vLLM's NIXL connector (penstock_contract.handoff). What a prefill worker
says of its blocks goes on byte for byte: only workers understand it.
"""

import json
from typing import Any, Final

import orjson

from penstock_contract import handoff
from penstock_gateway.relay.request import with_field

_KEY: Final = b'"%b":' % handoff.FIELD.encode()
_ASKED: Final[dict[str, Any]] = {
    "stream": False,
    "stream_options": None,
    "n": 1,
    "max_tokens": 1,
    "min_tokens": 1,
    handoff.FIELD: handoff.PREFILL,
}
"""How a prefill request differs from the client's."""


def prefill_body(body: bytes, *, chat: bool) -> bytes:
    """Return the client's body as a prefill worker gets it."""
    for name, value in _ASKED.items():
        body = with_field(body, name, orjson.dumps(value))
    return with_field(body, "max_completion_tokens", b"1") if chat else body


def decode_body(body: bytes, params: bytes) -> bytes:
    """Return the client's body as the decode worker gets it."""
    return with_field(body, handoff.FIELD, params)


def params_of(answer: bytes) -> bytes | None:
    """Return what a prefill worker says of its blocks, as it says it; None when it has kept none.

    Inside of a text the quotes of the key would be escaped, so no answer can forge it.
    """
    at = answer.rfind(_KEY)
    if at < 0:
        return None
    rest = answer[at + len(_KEY) :].decode("utf-8", "replace").lstrip()
    try:
        found, end = json.JSONDecoder().raw_decode(rest)
    except json.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not found.get("do_remote_prefill"):
        return None
    return rest[:end].encode()


def lease_of(params: bytes) -> str:
    """Return the lease to give back; nothing where the worker knows no leases."""
    found = orjson.loads(params)
    known = "penstock_epoch" in found and isinstance(found.get("remote_request_id"), str)
    return str(found["remote_request_id"]) if known else ""
