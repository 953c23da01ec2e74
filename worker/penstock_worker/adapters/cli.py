"""`penstock-worker adapters`: keeps the adapters of the engine beside it; told what over HTTP."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from penstock_contract.adapters import AGENT_PATH, PORT, READY_PATH, WantedAdapter, WantedAdapters
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.flags import port_flag
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.adapters.engine import EngineRoutes
from penstock_worker.adapters.keeper import Keeper
from penstock_worker.adapters.memory import recalled, remember
from penstock_worker.fetch.cli import origin
from penstock_worker.fetch.folder import fetch, remove
from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.selection import selected_of_adapter
from penstock_worker.server import errors
from penstock_worker.server.authorization import Authorization
from penstock_worker.server.json_response import JsonResponse

log = logging.getLogger("penstock.adapters")

MAX_BODY = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        tokens = WorkerTokens.of(os.environ)
    except ValueError as error:
        sys.stderr.write(f"penstock-worker adapters: {error}\n")
        return 2
    asyncio.run(_serve(options, tokens))
    return 0


async def _serve(options: argparse.Namespace, tokens: WorkerTokens) -> None:
    root = options.into.absolute()
    async with httpx.AsyncClient(trust_env=False) as client:
        keeper = Keeper(
            EngineRoutes(client, options.engine, tokens),
            lambda wanted: fetched(wanted, root),
            remove if options.evict else lambda _: None,
            root,
            by_name=options.by_name,
        )
        if before := recalled(options.told):
            keeper.tell(before)
        config = uvicorn.Config(
            app(keeper, tokens, options.told),
            host=options.host,
            port=options.port,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        keeping = asyncio.create_task(keeper.run())
        try:
            await uvicorn.Server(config).serve()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


def app(keeper: Keeper, tokens: WorkerTokens, told: Path | None = None) -> FastAPI:
    """Return the agent's ASGI app.

    Args:
        keeper: of the engine's adapters.
        tokens: that callers must show.
        told: file that keeps what it was told last, for the agent that comes after.
    """
    found = FastAPI(title="Penstock adapters", openapi_url=None)
    errors.install(found)
    found.add_middleware(Authorization, tokens=tokens, public=frozenset({READY_PATH}))

    @found.get(READY_PATH)
    async def ready() -> Response:
        return JsonResponse({"ready": keeper.ready}, 200 if keeper.ready else 503)

    @found.get(AGENT_PATH)
    async def report() -> Response:
        return JsonResponse(keeper.report().model_dump(mode="json"))

    @found.put(AGENT_PATH)
    async def tell(request: Request) -> Response:
        body = await request.body()
        if len(body) > MAX_BODY:
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"send at most {MAX_BODY} bytes")
        try:
            wanted = WantedAdapters.model_validate_json(body)
        except ValidationError as error:
            raise errors.from_validation(error) from error
        keeper.tell(wanted)
        remember(wanted, told)
        return await report()

    return found


def fetched(wanted: WantedAdapter, root: Path) -> Path:
    """Return the folder of an adapter's files, once they are there.

    Raises:
        FetchError: they cannot be had.
    """
    into = (root / wanted.folder).resolve()
    if root.resolve() not in into.parents:
        raise FetchError(f"{wanted.folder!r} is no folder below {root}")
    try:
        found = origin(wanted.uri, wanted.revision, os.environ, selected_of_adapter)
        with found.client:
            fetch(found, into, log.info)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(f"{wanted.uri}: {error}") from error
    return root / wanted.folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-worker adapters",
        description="Keep the adapters of an engine as a PUT of /adapters says.",
        epilog="environment: what penstock-worker fetch reads, and PENSTOCK_WORKER_TOKEN",
    )
    add = parser.add_argument
    add("--engine", required=True, metavar="URL", help="like http://127.0.0.1:8000")
    add("--into", type=Path, required=True, help="folder that the engine sees, too")
    add(
        "--told",
        type=Path,
        metavar="FILE",
        help="keep there what is to be, so that an agent that starts anew waits for nobody",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=port_flag, default=PORT)
    add("--evict", action="store_true", help="remove files of adapters that were taken away")
    add(
        "--by-name",
        action="store_true",
        help="the engine finds KV by an adapter's name alone, as vLLM does: never use one twice",
    )
    return parser
