"""A client's request as the gateway understands it, and as it goes on to a worker. Pure.

The body is parsed once, for the few fields that routing needs; its bytes go on untouched. The head
is written anew from what is known to be harmless, so nothing that a client puts into it (hop-by-hop
headers, a second length, forged `x-penstock-*`) can reach a worker.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson
from xxhash import xxh3_64_intdigest

from penstock_contract import handoff, headers, journal
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.tasks import SPEECH_PATHS
from penstock_gateway.form import MEDIA_TYPE
from penstock_gateway.relay.bounds import check_values
from penstock_gateway.relay.client_connection import Headers
from penstock_gateway.relay.inputs import inputs_size
from penstock_gateway.relay.media import counted
from penstock_gateway.relay.outline import MAX_BODY, Outline
from penstock_gateway.relay.speech import read_form

JSON: Final = b"application/json"
FORM: Final = MEDIA_TYPE.encode()
_JSON = re.compile(rb"application/(json|[\w.-]+\+json)\s*(;.*)?", re.IGNORECASE)
RESERVED = (journal.FIELD, handoff.FIELD)
_FORWARDED = (headers.TRACEPARENT.encode(), b"accept")
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"server", b"date",
}  # fmt: skip


class ParsedRequest:
    """What routing needs of a body.

    Args:
        body: parsed.
        model: that it names.
        size: bytes that the body had.
        sound: bytes of text that a recording in it is worth.
    """

    def __init__(self, body: dict[str, Any], model: str, size: int, sound: int = 0) -> None:
        tier = body.get("service_tier")
        self.model = model
        self.stream = body.get("stream") is True
        self.prompt = _prompt(body)
        """Bytes that stand for the prompt; equal beginnings mean equal beginnings of prompts."""
        self.size = len(self.prompt) or sound or inputs_size(body)
        """Bytes of what is to be computed: the prompt, or inputs, which have no prefix to share."""
        self.content_type = JSON
        """Of the body."""
        self.tier = tier if isinstance(tier, str) else ""
        """OpenAI's `service_tier`: the request class that is asked for."""
        self.most_tokens = _most_tokens(body)
        """Tokens that all of the answer may have; 0 when the request does not say."""
        self.reserved = [name for name in RESERVED if name in body]
        """Fields that it has and only the gateway may fill."""
        self.splits = _splits(body)
        """Its prompt can be computed by one worker and its answer by another."""
        self.outline = Outline(body) if self.stream and size <= MAX_BODY else None
        """What decides how its stream goes on elsewhere; None where it cannot."""


def check_content_type(path: str, value: bytes) -> None:
    """Refuse anything but JSON, and a form where there is a recording."""
    wanted = FORM if path in SPEECH_PATHS else JSON
    if wanted is JSON and value != JSON and not _JSON.fullmatch(value):
        raise _other_type(JSON)
    if wanted is FORM and not value.lower().startswith(FORM):
        raise _other_type(FORM)


def parse(path: str, content_type: str, body: bytes) -> ParsedRequest:
    """Return what routing needs.

    Raises:
        ApiError: the body is not a JSON object, or a form with a recording, with a model.
    """
    if path in SPEECH_PATHS:
        fields, sound = read_form(body, content_type)
        found = ParsedRequest(fields, _model(fields), len(body), sound)
        found.content_type = content_type.encode("latin-1", "replace")
        return found
    return parse_json(body)


def parse_json(body: bytes) -> ParsedRequest:
    """Return what routing needs.

    Raises:
        ApiError: the body is not a JSON object with a model.
    """
    check_values(body)
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(ErrorCode.INVALID_JSON, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ApiError(ErrorCode.INVALID_JSON, "the body is not a JSON object")
    return ParsedRequest(found, _model(found), len(body))


def worker_request(
    path: str,
    host: str,
    request_id: str,
    incoming: Headers,
    body: bytes,
    trusted: Iterable[tuple[str, str]] = (),
    content_type: bytes = JSON,
) -> bytes:
    """Return the bytes of the request to a worker; `trusted` headers are the gateway's own."""
    lines = [
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{headers.REQUEST_ID}: {request_id}\r\n"
        "content-type: ".encode(),
        content_type,
        f"\r\ncontent-length: {len(body)}\r\n".encode(),
    ]
    lines += [name + b": " + value + b"\r\n" for name, value in incoming if name in _FORWARDED]
    lines += [f"{name}: {value}\r\n".encode() for name, value in trusted]
    return b"".join([*lines, b"\r\n", body])


def fingerprint(body: bytes) -> int:
    """Return what tells a request from others."""
    return xxh3_64_intdigest(body)


def with_field(body: bytes, name: str, value: bytes) -> bytes:
    """Return a JSON object with one field more, which overrules one of the same name before it."""
    return body.rstrip()[:-1] + b',"' + name.encode() + b'":' + value + b"}"


def client_headers(found: Headers, own: Iterable[tuple[str, str]]) -> Headers:
    """Return the headers for the client: the worker's, without what is internal, and our own."""
    ours = [(name.encode(), value.encode()) for name, value in own]
    replaced = {name for name, _ in ours}
    internal = headers.INTERNAL_PREFIX.encode()
    passed = [
        (name, value)
        for name, value in found
        if name not in _HOP_BY_HOP and name not in replaced and not name.startswith(internal)
    ]
    return passed + ours


def _model(fields: dict[str, Any]) -> str:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(
            ErrorCode.INVALID_REQUEST,
            "model is required: the name of a served model",
            param="model",
        )
    return model


def _other_type(wanted: bytes) -> ApiError:
    message = f"send the header content-type: {wanted.decode()}"
    return ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)


def _splits(body: dict[str, Any]) -> bool:
    """Several prompts have no common KV; what is told of a prompt's tokens needs all of them."""
    prompt = body.get("prompt")
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    return not (several or body.get("echo") or body.get("prompt_logprobs") is not None)


def _most_tokens(body: dict[str, Any]) -> int:
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    choices = body.get("n", 1)
    if not isinstance(most, int) or not isinstance(choices, int):
        return 0  # the worker refuses them
    return max(0, most) * max(1, choices)


def _prompt(body: dict[str, Any]) -> bytes:
    for field in ("messages", "prompt"):
        value = body.get(field)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if value:
            try:
                # A longer conversation begins with the shorter one.
                written = orjson.dumps(value)[:-1]
                has_parts = field == "messages" and _has_parts(value)
                return counted(written) if has_parts else written
            except orjson.JSONEncodeError as error:
                message = f"{field} is nested too deeply"
                raise ApiError(ErrorCode.INVALID_REQUEST, message, param=field) from error
    return b""


def _has_parts(messages: Any) -> bool:
    """Return whether a message is more than a text: looking for that in all bytes takes longer."""
    return isinstance(messages, list) and any(
        isinstance(message, dict) and isinstance(message.get("content"), list)
        for message in messages
    )
