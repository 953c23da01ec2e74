"""Traces as a collector gets them: one span for each request, with its parent and its worker."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import plain_http
import pytest
from http_threads import serving
from stub_worker import StubWorker

from penstock_gateway import traces

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `tracing`")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
CANARY = "canary-51ab"
BODY = {"model": "m", "messages": [{"role": "user", "content": CANARY}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes spans as an OpenTelemetry collector does."""

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with serving(Collector()) as found:
        yield found


@pytest.fixture
async def traced(
    gateway: Any, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """A gateway that is told where to send its traces."""
    folder = tmp_path / "traced"
    folder.mkdir()
    monkeypatch.setenv(traces.ENDPOINT, f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    found = type(gateway)(folder)
    try:
        await found.start()
        yield found
    finally:
        found.stop()


async def ask(gateway: Any, **headers: str) -> int:
    async with plain_http.client(gateway.url) as client:
        return (await client.post(CHAT, json=BODY, headers=headers)).status_code


def attributes(found: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in found.attributes}


async def test_a_request_is_a_span_between_its_callers_and_its_workers(
    traced: Any, collector: Collector
) -> None:
    async with StubWorker() as worker:
        await traced.serve(worker)
        assert await ask(traced, traceparent=f"00-{TRACE}-{PARENT}-01") == 200

        async def exported() -> bool:
            return bool(collector.spans)

        await traced.until(exported)
        (span,) = collector.spans
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        handed_on = f"traceparent: 00-{TRACE}-{span.span_id.hex()}-01".encode()
        assert worker.seen[0].head.count(b"traceparent") == 1
        assert handed_on in worker.seen[0].head
        found = attributes(span)
        assert found["gen_ai.operation.name"] == span.name == "chat"
        assert found["gen_ai.request.model"] == "m"
        assert found["gen_ai.provider.name"] == "penstock"
        assert found["penstock.outcome"] == "complete"
        events = {event.name: attributes(event) for event in span.events}
        assert events["worker chosen"]["penstock.worker"] == f"w{worker.port}"
        assert "first byte" in events
        assert CANARY.encode() not in b"".join(collector.bodies)


async def test_refusals_and_failed_workers_are_told(traced: Any, collector: Collector) -> None:
    async with StubWorker("die") as worker, StubWorker("die") as other:
        await traced.serve(worker, other)
        await ask(traced)
        async with plain_http.client(traced.url) as client:
            await client.post(CHAT, json={**BODY, "model": "nobody"})

        async def exported() -> bool:
            return len(collector.spans) == 2

        await traced.until(exported)
        failed, refused = sorted(collector.spans, key=lambda s: s.start_time_unix_nano)
        assert attributes(failed)["penstock.outcome"] == "error"
        assert "worker failed" in [event.name for event in failed.events]
        assert attributes(refused)["error.type"] == "model_not_found"


async def test_what_is_left_is_sent_at_the_end(traced: Any, collector: Collector) -> None:
    async with StubWorker() as worker:
        await traced.serve(worker)
        await ask(traced)
        traced.terminate()
        assert traced.process.wait(60) == 0
        assert len(collector.spans) == 1


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys, penstock_gateway.cli as cli, penstock_gateway.traces as traces\n"
        "assert not traces.wanted({})\n"
        "assert not [m for m in sys.modules if m.startswith('opentelemetry.sdk')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_endpoint_without_the_extra_is_told_and_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    assert not traces.wanted({traces.ENDPOINT: "http://x"})
    assert "pip install penstock[tracing]" in caplog.text
