"""What a picker tells over HTTP: its metrics, its health, and to the operator its workers."""

import orjson
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from penstock_contract.fleet import GATEWAY_WORKERS_PATH
from penstock_gateway.endpoint_picker.picker import Picker


def create_app(picker: Picker, registry: CollectorRegistry) -> FastAPI:
    """Return the ASGI app."""
    app = FastAPI(title="Penstock endpoint picker", openapi_url=None, redirect_slashes=False)

    @app.get("/livez")
    async def livez() -> Response:
        return _json({"status": "ok"})

    @app.get("/health")
    async def health() -> Response:
        if not picker.directory().known:
            return _json({"status": "the fleet is not known yet"}, 503)
        return _json({"status": "ok"})

    @app.get(GATEWAY_WORKERS_PATH)
    async def workers() -> Response:
        return Response(picker.loads().model_dump_json(), media_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _json(body: dict[str, str], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
