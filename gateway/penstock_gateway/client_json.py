"""What clients send as JSON, or the error that says what of it is wrong."""

from typing import Any

import orjson

from penstock_contract.errors import ApiError, ErrorCode

Json = dict[str, Any]


def json_object(body: bytes | bytearray) -> Json:
    """Return a body that is a JSON object.

    Raises:
        ApiError: it is not.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(ErrorCode.INVALID_JSON, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ApiError(ErrorCode.INVALID_JSON, "the body is not a JSON object")
    return found


def json_list(found: Any, where: str) -> list[Any]:
    """Return a value that is a list; ApiError, with the path `where`, when it is not."""
    if not isinstance(found, list):
        raise invalid(where, "must be a list")
    return found


def invalid(where: str, what: str) -> ApiError:
    """Return the error of a value: its path, and what is wrong with it."""
    return ApiError(ErrorCode.INVALID_REQUEST, f"{where} {what}", param=where)
