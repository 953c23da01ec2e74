"""The routes of the service: `/v1/files` and `/v1/batches` as OpenAI has them, for the gateway."""

import logging
import re
import secrets
import time
import traceback
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Final

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.on_behalf import Seals, Towards
from penstock_gateway.batches import creation
from penstock_gateway.batches.batch import Batch, Status
from penstock_gateway.batches.files import PURPOSE, File, Files
from penstock_gateway.batches.keeper import Keeper
from penstock_gateway.batches.limits import Limits
from penstock_gateway.batches.page import Page
from penstock_gateway.batches.store import BatchStore
from penstock_gateway.batches.upload import Upload, Uploads
from penstock_gateway.client_json import json_object

log = logging.getLogger("penstock.batches")

MOST_JSON: Final = 64 << 10
"""Bytes of the request that creates a batch."""
_BY_STATUS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    files: Files
    store: BatchStore
    keeper: Keeper
    seals: Seals
    limits: Limits

    def tenant(self, request: Request) -> str:
        """Return for whom a request is made, by the gateway's word.

        Raises:
            ApiError: it is not the gateway's.
        """
        sealed = request.headers.get(headers.ON_BEHALF, "")
        ticket = self.seals.open(Towards.BATCHES, sealed, time.time())
        if ticket is None or not ticket.covers(request.method, request.url.path):
            message = "Batches are reached through the gateway."
            raise ApiError(ErrorCode.INVALID_API_KEY, message)
        return ticket.tenant

    def file(self, request: Request, file_id: str) -> File:
        """Return a file of the tenant.

        Raises:
            ApiError: there is none.
        """
        found = self.files.find(self.tenant(request), file_id)
        if found is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"No such file: {file_id}", param="file_id")
        return found

    def batch(self, request: Request, batch_id: str) -> Batch:
        """Return a batch of the tenant.

        Raises:
            ApiError: there is none.
        """
        found = self.store.find(batch_id, self.tenant(request))
        if found is None:
            raise ApiError(ErrorCode.NOT_FOUND, f"No such batch: {batch_id}", param="batch_id")
        return found


def create_app(service: Service, registry: CollectorRegistry) -> FastAPI:
    """Return the ASGI app."""
    app = FastAPI(
        title="Penstock batches",
        version=version("penstock"),
        openapi_url=None,
        redirect_slashes=False,
    )
    _errors(app)
    _file_routes(app, service)
    _batch_routes(app, service)

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _file_routes(app: FastAPI, service: Service) -> None:
    uploads = Uploads()

    @app.post("/v1/files")
    async def upload(request: Request) -> Response:
        tenant = service.tenant(request)
        await run_in_threadpool(creation.check_room, service.files, tenant, service.limits)
        with uploads.one(tenant):
            return _json((await _uploaded(request, tenant, service)).to_json())

    @app.get("/v1/files")
    def files(
        request: Request,
        purpose: str = "",
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    ) -> Response:
        tenant = service.tenant(request)
        page = Page(limit, after, order == "desc")
        found, more = service.files.listed(tenant, page, purpose)
        return _list([file.to_json() for file in found], more=more)

    @app.get("/v1/files/{file_id}")
    def file(request: Request, file_id: str) -> Response:
        return _json(service.file(request, file_id).to_json())

    @app.get("/v1/files/{file_id}/content")
    def content(request: Request, file_id: str) -> Response:
        found = service.file(request, file_id)
        return FileResponse(service.files.path(found.id), media_type="application/octet-stream")

    @app.delete("/v1/files/{file_id}")
    def delete(request: Request, file_id: str) -> Response:
        found = service.file(request, file_id)
        user = service.files.user(found.id)
        if user is not None:
            message = f"The batch {user} reads this file; cancel it first."
            raise ApiError(ErrorCode.INVALID_REQUEST, message, param="file_id")
        service.files.delete(found.id)
        return _json({"id": found.id, "object": "file", "deleted": True})


def _batch_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/batches")
    async def create(request: Request) -> Response:
        tenant = service.tenant(request)
        asked = await _object(request)
        made = run_in_threadpool(
            creation.create_batch, asked, tenant, service.files, service.store, service.limits
        )
        batch = await made
        service.keeper.wake()
        return _json(batch.to_json())

    @app.get("/v1/batches")
    def batches(
        request: Request, after: str = "", limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> Response:
        found, more = service.store.listed(service.tenant(request), Page(limit, after))
        return _list([batch.to_json() for batch in found], more=more)

    @app.get("/v1/batches/{batch_id}")
    def batch(request: Request, batch_id: str) -> Response:
        return _json(service.batch(request, batch_id).to_json())

    @app.post("/v1/batches/{batch_id}/cancel")
    async def cancel(request: Request, batch_id: str) -> Response:
        found = await run_in_threadpool(service.batch, request, batch_id)
        now = time.time()
        moved = await run_in_threadpool(service.store.move, found.id, Status.CANCELLING, now)
        if moved is None:
            found = await run_in_threadpool(service.batch, request, batch_id)
            if found.status is not Status.CANCELLING:
                message = f"A batch that is {found.status} cannot be cancelled."
                raise ApiError(ErrorCode.INVALID_REQUEST, message)
            return _json(found.to_json())
        service.keeper.interrupt(found.id)
        return _json((await run_in_threadpool(service.batch, request, batch_id)).to_json())


async def _uploaded(request: Request, tenant: str, service: Service) -> File:
    file_id = f"file-{secrets.token_hex(12)}"
    kind = request.headers.get("content-type", "")
    async with contextmanager_in_threadpool(service.files.written(file_id)) as content:
        form = await Upload(kind, content, service.limits.file).read(request.stream())
        purpose = form.fields.get("purpose", "")
        if purpose != PURPOSE:
            raise _wrong(f"purpose must be {PURPOSE}: files are for batches only", "purpose")
        name = form.file_name or ""
        if not _NAME.fullmatch(name):
            raise _wrong("the file's name has characters that no name should have", "file")
        now = int(time.time())
        kept = creation.kept(
            form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
        )
        file = File(file_id, tenant, purpose, name, form.bytes, now, now + kept)
    await run_in_threadpool(service.files.put, file)
    return file


async def _object(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MOST_JSON:
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {MOST_JSON} bytes")
    return json_object(data)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> Response:
        return _json(error.body(), error.code.status, error.headers())

    @app.exception_handler(RequestValidationError)
    async def on_query(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        refusal = _wrong(str(first["msg"]), str(first["loc"][-1]))
        return _json(refusal.body(), refusal.code.status)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
        found = ApiError(code, f"{request.method} {request.url.path}: {error.detail}")
        return _json(found.body(), code.status)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # that nobody reads

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> Response:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__
        log.error("a request failed: %s in %s:%s", kind, where.filename, where.lineno)
        found = ApiError(ErrorCode.INTERNAL_ERROR, "the batch service failed on this request")
        return _json(found.body(), found.code.status)


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, message, param=param)


def _list(found: list[dict[str, Any]], *, more: bool) -> Response:
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return _json(
        {"object": "list", "data": found, "first_id": first, "last_id": last, "has_more": more}
    )


def _json(body: Any, status: int = 200, own: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, own, "application/json")
