"""The gateway's routes: an allow-list; whatever is not here is not reachable through it."""

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import GATEWAY_WORKERS_PATH, FleetModel
from penstock_contract.tasks import GENERATION, POOLING_PATHS, SPEECH_PATHS
from penstock_gateway import model_list
from penstock_gateway.completions import DIALECTS, bug
from penstock_gateway.introspection import Introspection
from penstock_gateway.relay.relay import Relay
from penstock_gateway.status import page
from penstock_gateway.status.access import allow
from penstock_gateway.tenants.tenancy import sent_key
from penstock_gateway.tenants.tenant_request import model_not_found

if TYPE_CHECKING:
    from penstock_gateway.batch_service import BatchService

RELAYED = (*GENERATION, *POOLING_PATHS, *SPEECH_PATHS, "/tokenize", "/detokenize", *DIALECTS)
BATCH_PATHS = ("/v1/files", "/v1/batches")
_BATCH_PATH = re.compile(r"/v1/(files|batches)(/[\w-]{1,64}(/(content|cancel))?)?", re.ASCII)
_BY_STATUS = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED}


def create_app(
    relay: Relay, introspection: Introspection, batches: "BatchService | None" = None
) -> FastAPI:
    """Return the gateway's ASGI app.

    Args:
        relay: knows models and tenants.
        introspection: answers to those who run the gateway.
        batches: the batch service, where there is one.
    """
    app = FastAPI(
        title="Penstock gateway",
        version=version("penstock"),
        openapi_url=None,
        redirect_slashes=False,  # a redirect would go to a host that the client named
    )
    _error_handlers(app)
    for path in RELAYED:
        app.add_route(path, _only_post, methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
    _model_routes(app, relay)
    _batch_routes(app, relay, batches)
    _state_routes(app, relay, introspection)
    return app


async def _only_post(_: Request) -> Response:
    raise HTTPException(405, "Method Not Allowed")


def _model_routes(app: FastAPI, relay: Relay) -> None:
    def served(request: Request) -> dict[str, FleetModel]:
        """Return what the caller may use, by name."""
        tenant = relay.tenancy.identify(_key(request))
        models = relay.directory().served
        return {name: model for name, model in models.items() if tenant.may_use(name, model)}

    @app.get(model_list.PATH)
    async def models(request: Request) -> Response:
        return _json(model_list.listed(served(request)))

    @app.get(model_list.PATH + "/{name:path}")
    async def model(name: str, request: Request) -> Response:
        found = served(request).get(name)
        if found is None:
            raise model_not_found(name)
        return _json(model_list.card(name, found))


def _batch_routes(app: FastAPI, relay: Relay, service: "BatchService | None") -> None:
    async def handed_on(request: Request) -> Response:
        asked = relay.tenancy.request(_key(request))
        if not _BATCH_PATH.fullmatch(request.url.path):
            raise HTTPException(404, "Not Found")
        if service is None:
            message = "Files and batches are switched off at this gateway; see docs/batches.md."
            raise ApiError(ErrorCode.NOT_FOUND, message)
        try:
            asked.count()
        except ApiError as error:
            relay.metrics.refused(error.code, asked.tenant.id)
            raise
        return await service.ask(request, asked)

    for path in BATCH_PATHS:
        for route in (path, path + "/{rest:path}"):
            app.add_route(route, handed_on, methods=["GET", "POST", "DELETE"])


def _state_routes(app: FastAPI, relay: Relay, introspection: Introspection) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return _json({"status": "ok"})

    @app.get("/health")
    @app.get("/ping")
    async def health() -> Response:
        if not relay.directory().known:
            return _json({"status": "the fleet is not known yet"}, 503)
        if not relay.tenancy.known:
            return _json({"status": "the tenants are not known yet"}, 503)
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if relay.directory().any_ready:
            return _json({"status": "ok"})
        return _json({"status": "no worker is ready"}, 503)

    @app.get(GATEWAY_WORKERS_PATH)
    async def workers() -> Response:
        # The operator's; in a cluster, NetworkPolicies decide who else may ask.
        found = await introspection.workers()
        return Response(found.model_dump_json(), media_type="application/json")

    @app.get("/status")
    async def status(request: Request) -> Response:
        allow(relay.tenancy, request.headers.get("authorization"))
        wanted = request.query_params.get("refresh")
        refresh = next((seconds for seconds in page.REFRESH if str(seconds) == wanted), None)
        text = page.render(await introspection.status(), refresh)
        return Response(text, headers=page.HEADERS, media_type="text/html")

    @app.get("/version")
    async def get_version() -> Response:
        return _json({"version": version("penstock")})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await introspection.metrics(), media_type=CONTENT_TYPE_LATEST)


def _error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return _refusal(error, request)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = _BY_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
        path = request.url.path
        known = error.status_code == 404 and f"/v1{path}" in (
            *RELAYED,
            *BATCH_PATHS,
            model_list.PATH,
        )
        hint = f"; it is at /v1{path}" if known else ""
        message = f"{request.method} {path}: {error.detail}{hint}"
        return _refusal(ApiError(code, message), request)

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)  # that nobody reads

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> Response:
        return _refusal(bug(error), request)


def _key(request: Request) -> str:
    """Return the API key that a request brings, or nothing."""
    found = request.headers
    return sent_key(found.get("authorization"), found.get("x-api-key"))


def _refusal(error: ApiError, request: Request) -> Response:
    own = {headers.REQUEST_ID: headers.request_id(request.headers.get(headers.REQUEST_ID))}
    return _json(error.body(), error.code.status, {**error.headers(), **own})


def _json(body: Any, status: int = 200, own: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, own, "application/json")
