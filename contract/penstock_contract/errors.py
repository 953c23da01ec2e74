"""The error codes that clients see, in OpenAI's shape.

Every refusal of the gateway and of a worker is one of these: the code decides the HTTP status and
the OpenAI `type`, so the official SDKs raise the exception their users expect and retry only what
can succeed (they retry 408, 409, 429 and everything from 500 up).
"""

from enum import Enum
from typing import Any


class ErrorCode(Enum):
    """A stable machine-readable code with its HTTP status and OpenAI error type."""

    INVALID_REQUEST = ("invalid_request", 400, "invalid_request_error")
    INVALID_JSON = ("invalid_json", 400, "invalid_request_error")
    CONTEXT_LENGTH_EXCEEDED = ("context_length_exceeded", 400, "invalid_request_error")
    UNSUPPORTED_PARAMETER = ("unsupported_parameter", 400, "invalid_request_error")
    TASK_NOT_SUPPORTED = ("task_not_supported", 400, "invalid_request_error")
    """The model is for something else, such as embeddings; the message names its routes."""
    QUARANTINED = ("request_quarantined", 400, "invalid_request_error")
    """Workers died of this request; a status that no SDK repeats by itself."""
    INVALID_API_KEY = ("invalid_api_key", 401, "invalid_request_error")
    PERMISSION_DENIED = ("permission_denied", 403, "invalid_request_error")
    MODEL_NOT_FOUND = ("model_not_found", 404, "invalid_request_error")
    NOT_FOUND = ("not_found", 404, "invalid_request_error")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "invalid_request_error")
    REQUEST_TIMEOUT = ("request_timeout", 408, "timeout_error")
    REQUEST_TOO_LARGE = ("request_too_large", 413, "invalid_request_error")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415, "invalid_request_error")
    RATE_LIMIT_EXCEEDED = ("rate_limit_exceeded", 429, "rate_limit_error")
    INTERNAL_ERROR = ("internal_error", 500, "server_error")
    UPSTREAM_FAILED = ("upstream_failed", 502, "server_error")
    NO_CAPACITY = ("no_capacity", 503, "server_error")
    SHUTTING_DOWN = ("shutting_down", 503, "server_error")
    HANDED_BACK = ("handed_back", 503, "server_error")
    """The worker leaves before the request is complete: continue it on another one."""
    DEADLINE_EXCEEDED = ("deadline_exceeded", 504, "server_error")

    def __init__(self, code: str, status: int, type_: str) -> None:
        self.code = code
        self.status = status
        self.type = type_


class ApiError(Exception):
    """A refusal on its way to the client.

    Args:
        code: which of the declared errors this is.
        message: what is wrong and what to do about it, for a human.
        param: path of the offending request field, e.g. `messages[0].content`.
        retry_after: seconds after which a retry may succeed; the SDKs really sleep that long.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the response (or of the in-band event of a broken stream)."""
        return {
            "error": {
                "message": self.message,
                "type": self.code.type,
                "param": self.param,
                "code": self.code.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return this error's retry headers, in both forms: SDKs read either."""
        if self.retry_after is None:
            return {}
        return {
            "retry-after": str(max(1, round(self.retry_after))),
            "retry-after-ms": str(max(1, round(self.retry_after * 1000))),
        }
