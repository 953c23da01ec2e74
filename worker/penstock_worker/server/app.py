"""The routes of a worker."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError

from penstock_contract import headers
from penstock_contract.adapters import LOAD, UNLOAD
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.handoff import LEASES_PATH
from penstock_contract.tasks import EMBEDDINGS, RERANK, SCORE, SPEECH_PATHS
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.server import errors
from penstock_worker.server.adapters import AdapterChanges, LoadRequest, UnloadRequest
from penstock_worker.server.authorization import Authorization
from penstock_worker.server.json_response import JsonResponse
from penstock_worker.server.pooling_protocol import (
    EmbeddingRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
)
from penstock_worker.server.prompts import chat_prompt
from penstock_worker.server.protocol import (
    MAX_BODY_BYTES,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from penstock_worker.server.request_id import RequestId
from penstock_worker.server.served import Served
from penstock_worker.server.service import Service, events, whole
from penstock_worker.server.stream import EventStream, unless_disconnected
from penstock_worker.server.trusted import Trusted

_JSON = re.compile(r"application/(json|[\w.-]+\+json)\s*(;.*)?", re.IGNORECASE)

Body = TypeVar("Body", bound=BaseModel)
Pooling = TypeVar("Pooling", bound=PoolingRequest)


def create_app(
    service: Service, registry: CollectorRegistry, tokens: WorkerTokens | None = None
) -> FastAPI:
    """Return the worker's ASGI app."""
    app = FastAPI(title="Penstock worker", version=version("penstock"), openapi_url=None)
    errors.install(app)
    app.add_middleware(Authorization, tokens=tokens or WorkerTokens())
    app.add_middleware(RequestId)
    _completion_routes(app, service)
    _pooling_routes(app, service)
    _text_routes(app, service)
    _adapter_routes(app, AdapterChanges(service, allowed=bool(service.client.config.max_adapters)))
    _state_routes(app, service, registry)
    return app


def _completion_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _complete(service, request, await _body(request, ChatRequest))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _complete(service, request, await _body(request, CompletionRequest))


def _pooling_routes(app: FastAPI, service: Service) -> None:
    # Their answers are made with numpy, which a worker that generates need not load.
    @app.post(EMBEDDINGS)
    async def embed(request: Request) -> Response:
        from penstock_worker.server.pooling import embeddings

        return await _pool(service, request, EmbeddingRequest, embeddings)

    @app.post(SCORE)
    async def score(request: Request) -> Response:
        from penstock_worker.server.pooling import scores

        return await _pool(service, request, ScoreRequest, scores)

    async def rerank(request: Request) -> Response:
        from penstock_worker.server.pooling import ranking

        return await _pool(service, request, RerankRequest, ranking)

    for path in RERANK:
        app.add_api_route(path, rerank, methods=["POST"])

    async def hear() -> Response:
        message = "No model of Penstock's own engine hears: use spec.engine.type VLLM."
        raise ApiError(ErrorCode.TASK_NOT_SUPPORTED, message, param="model")

    for path in SPEECH_PATHS:
        app.add_api_route(path, hear, methods=["POST"])


def _text_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await _body(request, TokenizeRequest)
        served = service.model(body.model)
        # A long text takes its time, in which streams must go on.
        tokens = await asyncio.to_thread(_tokens, served, body)
        found = {
            "count": len(tokens),
            "max_model_len": served.max_model_len,
            "tokens": tokens,
        }
        return JsonResponse(found)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        body = await _body(request, DetokenizeRequest)
        served = service.model(body.model)
        for token in body.tokens:
            if token >= served.vocab_size:
                raise ApiError(
                    ErrorCode.INVALID_REQUEST, f"token {token} does not exist", param="tokens"
                )
        text = await asyncio.to_thread(
            served.tokenizer.decode, body.tokens, skip_special_tokens=False
        )
        return JsonResponse({"prompt": text})

    @app.get("/v1/models")
    async def models() -> Response:
        names = (*service.names, *service.adapters)
        return JsonResponse({"object": "list", "data": [_model(service, name) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name not in (*service.names, *service.adapters):
            raise ApiError(ErrorCode.MODEL_NOT_FOUND, f"The model {name!r} is not served here.")
        return JsonResponse(_model(service, name))


def _adapter_routes(app: FastAPI, changes: AdapterChanges) -> None:
    # Not for clients either: as of /drain, the gateway relays nothing of these.
    @app.post(LOAD)
    async def load(request: Request) -> Response:
        told = await changes.load(await _body(request, LoadRequest))
        return Response(told, media_type="text/plain")

    @app.post(UNLOAD)
    async def unload(request: Request) -> Response:
        told = await changes.unload(await _body(request, UnloadRequest))
        return Response(told, media_type="text/plain")


def _state_routes(app: FastAPI, service: Service, registry: CollectorRegistry) -> None:
    @app.get("/health")
    async def health() -> Response:
        state = service.state
        own = {headers.EPOCH: service.epoch}
        return JsonResponse({"status": state}, 200 if state == "ok" else 503, own)

    @app.get("/ping")
    async def ping() -> Response:
        return await health()

    # Not for clients: the gateway does not relay these, NetworkPolicies keep others out, and where
    # there is a token, they need it.
    @app.post("/drain")
    async def drain() -> Response:
        service.set_aside(aside=True)
        return JsonResponse({"status": service.state})

    @app.delete("/drain")
    async def end_drain() -> Response:
        service.set_aside(aside=False)
        return JsonResponse({"status": service.state})

    @app.delete(LEASES_PATH + "{lease}")
    async def release(lease: str) -> Response:
        service.client.release(lease)
        return Response(status_code=204)

    @app.get("/version")
    async def get_version() -> Response:
        return JsonResponse({"version": version("penstock")})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _tokens(served: Served, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(ErrorCode.INVALID_REQUEST, "send either prompt or messages", param="prompt")
    if body.messages is None:
        return served.tokenizer.encode(
            body.prompt or "", add_special_tokens=body.add_special_tokens
        )
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or []]
    return chat_prompt(served, body.messages, tools or None, body.chat_template_kwargs)


async def _complete(
    service: Service, request: Request, body: ChatRequest | CompletionRequest
) -> Response:
    began = time.perf_counter()
    service.metrics.ignored(len(body.ignored))
    journaled = headers.JOURNAL in request.headers
    if not (journaled and body.stream):
        body.penstock_resume = None  # only the gateway resumes, and only streams
    if headers.HANDOFF not in request.headers:
        body.kv_transfer_params = None  # a client must not say where to connect to
    answer, bodies, choices = await service.answer(body, Trusted.of(request.headers))
    own = {headers.EPOCH: service.epoch}
    if body.stream:
        stream = events(service, answer, bodies, body, journaled)
        return EventStream(stream, own)
    result = await unless_disconnected(request, lambda: whole(service, answer, bodies, choices))
    if result is None and answer.kept is not None:
        service.client.release(answer.kept["remote_request_id"])  # the client has gone
    own[headers.PROCESSING_MS] = str(round((time.perf_counter() - began) * 1000))
    if answer.ttft is not None:
        own[headers.TTFT_MS] = str(round(answer.ttft * 1000))
    return JsonResponse(result, headers=own)


async def _pool(
    service: Service,
    request: Request,
    kind: type[Pooling],
    answer: Callable[[Service, Pooling, Trusted], Awaitable[bytes]],
) -> Response:
    began = time.perf_counter()
    body = await _body(request, kind)
    service.metrics.ignored(len(body.ignored))
    trusted = Trusted.of(request.headers)
    found = await unless_disconnected(request, lambda: answer(service, body, trusted))
    took = round((time.perf_counter() - began) * 1000)
    own = {headers.EPOCH: service.epoch, headers.PROCESSING_MS: str(took)}
    # Nobody reads what a client is told that has gone.
    return Response(found or b"{}", 200, own, "application/json")


async def _body(request: Request, kind: type[Body]) -> Body:
    """Read and check a JSON body; errors name the field."""
    if not _JSON.fullmatch(request.headers.get("content-type", "")):
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send content-type: application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise ApiError(
                ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {MAX_BODY_BYTES} bytes"
            )
    try:
        found = orjson.loads(data)
        if isinstance(found, dict):  # null means the default, as in OpenAI's schema
            found = {name: value for name, value in found.items() if value is not None}
        return kind.model_validate(found)
    except orjson.JSONDecodeError as error:
        raise ApiError(ErrorCode.INVALID_JSON, f"the body is not JSON: {error}") from error
    except ValidationError as error:
        raise errors.from_validation(error) from error


def _model(service: Service, name: str) -> dict[str, object]:
    """As vLLM shows it: an adapter's parent is the model that it is for."""
    adapter = name in service.adapters
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "penstock",
        "root": service.adapters[name] if adapter else service.names[0],
        "parent": service.names[0] if adapter else None,
        "max_model_len": service.served.max_model_len if service.served else None,
    }
