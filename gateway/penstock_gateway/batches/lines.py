"""The lines of input, output and error files. Pure."""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from penstock_contract.errors import ApiError
from penstock_gateway.batches.batch import Json, Problem
from penstock_gateway.relay.bounds import check_values

ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
)
"""What a batch may ask for."""
MAX_LINE: Final = 4 << 20
"""Bytes of a request."""
MAX_CUSTOM_ID: Final = 512

EXPIRED: Final = ("batch_expired", "The completion window was over before this request's turn.")
CANCELLED: Final = ("batch_cancelled", "The batch was cancelled before this request's turn.")


@dataclass(frozen=True)
class Request:
    """One line that can be asked."""

    custom_id: str
    model: str
    content: bytes
    """Its body."""


class LineError(Exception):
    """A line that cannot be asked."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param

    def at(self, line: int) -> Problem:
        """Return it as a problem of a file."""
        return Problem(self.code, str(self), line, self.param)


def parse(line: bytes, endpoint: str) -> Request:
    """Return the request in a line.

    Raises:
        LineError: there is none for this endpoint.
    """
    if len(line) > MAX_LINE:
        raise LineError("line_too_long", f"a line may have {MAX_LINE} bytes")
    found = _object(line)
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        message = f"custom_id must be a text of 1 to {MAX_CUSTOM_ID} characters"
        raise LineError("missing_required_parameter", message, "custom_id")
    if found.get("method") != "POST":
        raise LineError("invalid_method", "method must be POST", "method")
    if found.get("url") != endpoint:
        message = f"url must be the endpoint of the batch, {endpoint}"
        raise LineError("mismatched_url", message, "url")
    body = _body(found.get("body"))
    return Request(custom_id, body["model"], _written(body))


def answer_line(line_id: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """Return the line for an answer of the gateway, whatever its JSON is."""
    found = orjson.Fragment(body)
    response = {"status_code": status, "request_id": request_id, "body": found}
    return _line(line_id, custom_id, response, None)


def unanswered_line(line_id: str, custom_id: str, code: str, message: str) -> bytes:
    """Return the line for a request that was not asked to its end."""
    return _line(line_id, custom_id, None, {"code": code, "message": message})


def line_id(batch: str, number: int) -> str:
    """Return the id of a line of output; the same whenever it is written."""
    return f"batch_req_{batch.removeprefix('batch_')}_{number}"


def _object(line: bytes) -> Json:
    try:
        check_values(line)
        found = orjson.loads(line)
    except (orjson.JSONDecodeError, ApiError) as error:
        raise LineError("invalid_json_line", f"this line is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise LineError("invalid_json_line", "this line is not a JSON object")
    return found


def _body(found: Any) -> Json:
    if not isinstance(found, dict):
        raise LineError("missing_required_parameter", "body must be an object", "body")
    if not isinstance(found.get("model"), str) or not found["model"]:
        message = "body.model is required: the name of a served model"
        raise LineError("missing_required_parameter", message, "body.model")
    if found.get("stream"):
        raise LineError("invalid_request", "a batch has nobody to stream to", "body.stream")
    return found


def _written(body: Json) -> bytes:
    """Return what is sent: JSON can be read that is nested too deeply to be written again."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise LineError("invalid_json_line", "body is nested too deeply", "body") from error


def _line(line_id: str, custom_id: str, response: Json | None, error: Json | None) -> bytes:
    found = {"id": line_id, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(found) + b"\n"
