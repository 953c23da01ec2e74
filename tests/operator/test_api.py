"""Calls to the API server: whatever stands in between, a failure is one that is tried again."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from http_threads import serving
from kubernetes.client import Configuration
from prometheus_client import CollectorRegistry

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.kinds import POD
from penstock_operator.cluster.metrics import OperatorMetrics

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Handler(BaseHTTPRequestHandler):
    """Answers as a proxy with a page of its own, and ends watches in the middle of a line."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        whole = b'{"type": "BOOKMARK", "object": {}}\n'
        self.wfile.write(whole + whole[:9] if "watch" in self.path else b"<html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        found = Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")
        yield Api(found, OperatorMetrics(CollectorRegistry()))


async def test_an_answer_that_is_none_of_the_api_servers_is_a_failed_call(api: Api) -> None:
    with pytest.raises(ApiError, match="the answer is no JSON") as caught:
        await api.list(POD, "models")
    assert caught.value.status == 0
    await api.close()


async def test_a_watch_that_ends_in_the_middle_of_a_line_has_failed(api: Api) -> None:
    events = api.watch(POD, "models", "", "1")
    assert (await anext(events))["type"] == "BOOKMARK"
    with pytest.raises(ApiError, match="watching pods") as caught:
        await anext(events)
    assert caught.value.status == 0
    await api.close()
