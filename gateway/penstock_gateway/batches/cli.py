"""`penstock-batches`: settings in, a serving process out."""

import argparse
import asyncio
import logging
import os
import sqlite3
import sys
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from penstock_contract.flags import port_flag, quantity_flag
from penstock_contract.on_behalf import ENVIRONMENT, Seals
from penstock_gateway.batches.app import Service, create_app
from penstock_gateway.batches.database import Database, FolderTakenError, NewerSchemaError
from penstock_gateway.batches.files import Files
from penstock_gateway.batches.gateway_client import GatewayClient
from penstock_gateway.batches.keeper import Keeper
from penstock_gateway.batches.limits import Limits
from penstock_gateway.batches.metrics import BatchMetrics
from penstock_gateway.batches.store import BatchStore

log = logging.getLogger("penstock.batches")


def main() -> None:
    """Keep files and run batches until told to stop."""
    options = _parser().parse_args()
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        seals = Seals.of(os.environ)
        if not seals.values:
            raise ValueError(f"{ENVIRONMENT}: set the token that the gateway has, too")
        database = Database(options.folder)
    except (ValueError, OSError, sqlite3.Error, FolderTakenError, NewerSchemaError) as error:
        sys.stderr.write(f"penstock-batches: {error}\n")
        sys.exit(2)
    sys.exit(uvloop.run(_serve(options, seals, database)))


async def _serve(options: argparse.Namespace, seals: Seals, database: Database) -> int:
    registry = CollectorRegistry()
    metrics = BatchMetrics(registry)
    limits = Limits(
        file=options.max_file,
        stored=options.max_stored,
        files=options.max_files,
        batches=options.max_batches,
        concurrency=options.concurrency,
    )
    files, store = Files(database), BatchStore(database)
    files.sweep()  # before anything new can come
    gateway = GatewayClient(options.gateway, seals, limits.concurrency)
    keeper = Keeper(files, store, gateway, limits.concurrency, metrics)
    app = create_app(Service(files, store, keeper, seals, limits), registry)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    # uvicorn tells exceptions with their text, which may quote a request; the app says where.
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.exc_info is None)
    server = _Server(config)
    keeping = asyncio.create_task(keeper.run())
    # A service that serves but carries nothing must not look well: it ends, and is started again.
    keeping.add_done_callback(lambda _: server.stop())
    log.info("listening on http://%s:%d, files in %s", options.host, options.port, options.folder)
    await server.serve()
    broken = keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await gateway.close()
    database.close()
    return 1 if broken else 0


class _Server(uvicorn.Server):
    """uvicorn, which on a signal ends in good order, but exits with 0."""

    def stop(self) -> None:
        """End in good order."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End on the first signal, at once on the second."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock-batches", description=__doc__)
    add, usual = parser.add_argument, Limits()
    add("--folder", type=Path, required=True, help="where files and batches are kept")
    add("--gateway", required=True, help="base URL of the gateway, like http://127.0.0.1:8000")
    add("--host", default="127.0.0.1")
    add("--port", type=port_flag, default=8001)
    add("--concurrency", type=_count, default=usual.concurrency, help="requests in flight")
    add("--max-file", type=quantity_flag, default=usual.file, help="like 200Mi; of an upload")
    add("--max-stored", type=quantity_flag, default=usual.stored, help="like 2Gi; of a tenant")
    add("--max-files", type=_count, default=usual.files, help="of a tenant")
    add("--max-batches", type=_count, default=usual.batches, help="of a tenant, not ended")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(text)
