"""The routes of a model that embeds or scores: from a body to vectors, scores or a ranking."""

import asyncio
import base64
import time
import uuid
from contextlib import aclosing
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.tasks import EMBEDDINGS, RERANK, SCORE, refuse_other_task
from penstock_worker.messages import AddInputs, FinishReason
from penstock_worker.server.engine_client import EngineDied, HandedBack
from penstock_worker.server.pooling_inputs import (
    Inputs,
    embedding_inputs,
    pair_inputs,
    text_inputs,
)
from penstock_worker.server.pooling_protocol import (
    EmbeddingRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
)
from penstock_worker.server.served import Served
from penstock_worker.server.service import Service
from penstock_worker.server.trusted import Trusted

Vectors = NDArray[np.float32]
"""[inputs, width]."""


async def embeddings(service: Service, request: EmbeddingRequest, trusted: Trusted) -> bytes:
    """Answer POST /v1/embeddings.

    Raises:
        ApiError: the model does not embed, an input does not fit, or the worker leaves or fails.
    """
    served = _served(service, request, EMBEDDINGS)
    width = served.pooling.width if served.pooling else 0
    if request.dimensions is not None and request.dimensions > width:
        message = f"dimensions must be at most {width}, which is what the model has"
        raise ApiError(ErrorCode.INVALID_REQUEST, message, param="dimensions")
    with service.in_flight():
        inputs = await asyncio.to_thread(embedding_inputs, served, request)
        vectors = await _computed(service, request, inputs, trusted, "embd-")
    shown = _shortened(served, vectors, request.dimensions)
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(request, vector)}
        for index, vector in enumerate(shown)
    ]
    return _body("embd-", request, {"object": "list", "data": data}, inputs)


async def scores(service: Service, request: ScoreRequest, trusted: Trusted) -> bytes:
    """Answer POST /v1/score; errors as `embeddings`."""
    served = _served(service, request, SCORE)
    if not request.matches:
        message = "text_1 must be one text, or as many as text_2"
        raise ApiError(ErrorCode.INVALID_REQUEST, message, param="text_1")
    found, inputs = await _compared(service, served, request, request.pairs, trusted, "text_2")
    data = [
        {"index": index, "object": "score", "score": value} for index, value in enumerate(found)
    ]
    return _body("score-", request, {"object": "list", "data": data}, inputs)


async def ranking(service: Service, request: RerankRequest, trusted: Trusted) -> bytes:
    """Answer POST /v1/rerank; errors as `embeddings`."""
    served, texts = _served(service, request, RERANK[0]), request.texts
    pairs = [(request.query, text) for text in texts]
    found, inputs = await _compared(service, served, request, pairs, trusted, "documents")
    # Of equal scores the earlier document comes first.
    best = sorted(range(len(found)), key=lambda index: -found[index])[: request.top_n or None]
    results = []
    for index in best:
        document = {"document": {"text": texts[index]}} if request.return_documents else {}
        results.append({"index": index, **document, "relevance_score": found[index]})
    return _body("rerank-", request, {"results": results}, inputs)


def _served(service: Service, request: PoolingRequest, path: str) -> Served:
    served = service.model(request.model)
    refuse_other_task(request.model, served.task, path)
    return served


async def _compared(
    service: Service,
    served: Served,
    request: PoolingRequest,
    pairs: list[tuple[str, str]],
    trusted: Trusted,
    param: str,
) -> tuple[list[float], Inputs]:
    """Return the pairs' scores; of a model that embeds, the cosine of their vectors."""
    keep = request.truncate_prompt_tokens
    with service.in_flight():
        if served.task is Task.SCORE:
            inputs = await asyncio.to_thread(pair_inputs, served, pairs, keep, param)
            found = await _computed(service, request, inputs, trusted, "score-")
            return found[:, 0].tolist(), inputs
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        inputs = await asyncio.to_thread(text_inputs, served, texts, keep, param)
        vectors = _unit(await _computed(service, request, inputs, trusted, "score-"))
    place = {text: index for index, text in enumerate(texts)}
    return [float(vectors[place[one]] @ vectors[place[two]]) for one, two in pairs], inputs


async def _computed(
    service: Service, request: PoolingRequest, inputs: Inputs, trusted: Trusted, prefix: str
) -> Vectors:
    """Have the engine compute inputs.

    Raises:
        ApiError: it refused or died, or the worker leaves.
    """
    message = AddInputs(
        id=prefix + uuid.uuid4().hex,
        inputs=inputs.tokens,
        seconds=inputs.seconds,
        priority=request.priority if trusted.priority is None else trusted.priority,
        deadline=trusted.deadline,
    )
    metrics = service.metrics.request(inputs.count, time.monotonic())
    found: dict[int, bytes] = {}
    waited, outcome = 0.0, "abort"
    try:
        async with aclosing(service.client.generate([message])) as outputs:
            async for output in outputs:
                _check(output.finish_reason, output.error)
                waited = waited or output.queue_seconds
                found |= output.vectors
        metrics.computed(waited, time.monotonic())
        outcome = "stop"
    except HandedBack as error:
        text = "the worker leaves before the answer is complete: ask another one"
        raise ApiError(ErrorCode.HANDED_BACK, text, retry_after=0.1) from error
    except EngineDied as error:
        raise ApiError(ErrorCode.INTERNAL_ERROR, f"the engine died: {error}") from error
    finally:
        metrics.finished(outcome, time.monotonic())
    ordered = b"".join(found[index] for index in range(len(inputs.tokens)))
    return np.frombuffer(ordered, dtype="<f4").reshape(len(inputs.tokens), -1)


def _check(reason: FinishReason | None, error: str) -> None:
    if reason is FinishReason.ABORT:
        raise ApiError(ErrorCode.INVALID_REQUEST, error)
    if reason is FinishReason.DEADLINE:
        message = "the request's deadline passed before the answer was complete"
        raise ApiError(ErrorCode.DEADLINE_EXCEEDED, message)


def _shortened(served: Served, vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return the beginnings of vectors, as long as before if they are of length 1.

    Matryoshka Representation Learning (Kusupati et al., NeurIPS 2022): the first dimensions of a
    model trained so are a vector of their own.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    unit = served.pooling is not None and served.pooling.recipe.normalised
    return _unit(kept) if unit else np.ascontiguousarray(kept)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _encoded(request: EmbeddingRequest, vector: Vectors) -> str | Vectors:
    if request.encoding_format == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    return vector


def _body(prefix: str, request: PoolingRequest, found: dict[str, Any], inputs: Inputs) -> bytes:
    """Return an answer as JSON; usage comes last, where the gateway looks for it."""
    answer = {
        "id": prefix + uuid.uuid4().hex,
        "created": int(time.time()),
        "model": request.model,
        **found,
        "usage": {"prompt_tokens": inputs.count, "total_tokens": inputs.count},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
