"""A connection to a worker whose other end is gone does not wait for ever."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop

from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.keepalive import EVERY_SECONDS, IDLE_SECONDS, LOST_SECONDS

WANTED = {
    socket.TCP_KEEPIDLE: IDLE_SECONDS,
    socket.TCP_KEEPINTVL: EVERY_SECONDS,
    socket.TCP_USER_TIMEOUT: LOST_SECONDS * 1000,
}
KEEPALIVE_TIMER = "02"
"""In the column `tr` of /proc/net/tcp."""


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_the_kernel_looks_after_the_other_end_of_each_connection(runner: Any) -> None:
    async def scenario(port: int) -> None:
        connection = await ConnectionPool().connect(f"http://127.0.0.1:{port}")
        ours = connection.transport.get_extra_info("socket")
        for option, value in WANTED.items():
            assert ours.getsockopt(socket.IPPROTO_TCP, option) == value
        assert timer(ours.getsockname()[1], port) == KEEPALIVE_TIMER
        connection.abort()
        await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        runner(scenario(listener.getsockname()[1]))


def timer(near: int, far: int) -> str:
    """Return which timer of a connection runs, by its ports."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        ports = [int(address.partition(":")[2], 16) for address in columns[1:3]]
        if ports == [near, far]:
            return columns[5].partition(":")[0]
    raise AssertionError("there is no such connection")
