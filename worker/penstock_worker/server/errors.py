"""Every failure as an OpenAI error body, whatever raised it."""

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.json_response import JsonResponse

_UNION_CHOICES = {"str", "int"}
_OTHER_TYPE = ("_type", "_parsing")
"""What the names of pydantic's errors end with where something of another type was given."""
_BY_STATUS = {
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
}


def response(error: ApiError) -> JsonResponse:
    """Return the HTTP response of an error."""
    return JsonResponse(error.body(), error.code.status, error.headers())


def from_validation(error: ValidationError) -> ApiError:
    """Return the first problem of a body, with the path of its field.

    Of a field that may be one of several things, it is the problem with what was given, rather than
    that it is not the others.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    same_field = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    right_type = (one for one in same_field if not one["type"].endswith(_OTHER_TYPE))
    first = next(right_type, found[0])
    path = ""
    for part in first["loc"]:
        if part in _UNION_CHOICES:
            continue  # pydantic adds the type that was tried; that is not a field
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier():
            path += f".{part}" if path else part
    return ApiError(ErrorCode.INVALID_REQUEST, f"{path}: {first['msg']}", param=path or None)


def install(app: FastAPI) -> None:
    """Make the app answer every error in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> JsonResponse:
        return response(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JsonResponse:
        code = _BY_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
        return response(ApiError(code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> JsonResponse:  # noqa: ARG001
        # The text of an unexpected exception may quote a prompt: it stays out of the answer.
        return response(ApiError(ErrorCode.INTERNAL_ERROR, "the worker failed on this request"))
