"""Sends a request to a worker, on a kept connection if there is one."""

import asyncio

from penstock_contract.fleet import FleetWorker
from penstock_contract.metrics import Fault
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.context import RelayContext
from penstock_gateway.relay.exhaustion import EVERY_SECONDS, PATIENCE, StarvedError
from penstock_gateway.relay.response import Response, UpstreamError
from penstock_gateway.relay.upstream import Connection
from penstock_gateway.relay.watchdog import Watchdog


async def send(
    context: RelayContext, metrics: RequestMetrics, worker: FleetWorker, data: bytes
) -> tuple[Connection, Response]:
    """Send a request to a worker, and wait for the head of its answer.

    A kept connection that turns out to be dead is replaced by a new one: that is a retry, too.

    Raises:
        UpstreamError: there is no answer.
        StarvedError: the gateway cannot connect to anybody.
    """
    kept = context.pool.idle(worker.url)
    if kept is None:
        fresh = await _connect(context, metrics, worker.url)
        return await _send(context.watchdog, worker, fresh, data)
    try:
        return await _send(context.watchdog, worker, kept, data)
    except UpstreamError as error:
        if error.fault is not Fault.LOST:
            raise
        metrics.retried()
        try:
            fresh = await _connect(context, metrics, worker.url)
        except UpstreamError:
            raise error from None  # it was there a moment ago: the request may have killed it
    return await _send(context.watchdog, worker, fresh, data)


async def _connect(context: RelayContext, metrics: RequestMetrics, url: str) -> Connection:
    """Return a new connection, after waiting while the gateway is out of what it takes."""
    until = 0.0
    while True:
        try:
            return await context.pool.connect(url)
        except StarvedError:
            now = context.clock()
            if not until:
                until = now + PATIENCE
                metrics.starved()
            if now >= until or context.stopping():
                raise
        await asyncio.sleep(EVERY_SECONDS)


async def _send(
    watchdog: Watchdog, worker: FleetWorker, connection: Connection, data: bytes
) -> tuple[Connection, Response]:
    watchdog.begin(worker.id, connection)
    try:
        return connection, await connection.send(data)
    except BaseException:
        connection.abort()
        watchdog.end(worker.id, connection)
        raise
