"""OpenTelemetry spans of requests, by the conventions for generative AI; never a word of a prompt.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set, and then nothing of it is even imported. It listens
where metrics and decisions are told anyway, so that a request that is not traced costs nothing.
"""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from penstock_contract import headers
from penstock_contract.errors import ErrorCode
from penstock_contract.metrics import Fault, Outcome
from penstock_contract.tasks import CHAT, COMPLETIONS, EMBEDDINGS
from penstock_gateway.instruments import Instruments
from penstock_gateway.metrics import GatewayMetrics, OfModel, RequestMetrics
from penstock_gateway.relay.call import Call, Serve
from penstock_gateway.relay.decisions import Decision, Decisions

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger("penstock.gateway.traces")

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACEPARENT: Final = headers.TRACEPARENT.encode()
_OPERATIONS: Final = {CHAT: "chat", COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings"}


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether traces are asked for, and can be had."""
    if not environment.get(ENDPOINT):
        return False
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        log.warning("%s is set, but not the extra: pip install penstock[tracing]", ENDPOINT)
        return False
    return True


class Tracing:
    """Makes a span of each request, and sends it to the endpoint in the background."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        os.environ.setdefault("OTEL_SERVICE_NAME", "penstock-gateway")
        self._provider: TracerProvider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("penstock.gateway")

    def serve(self, inner: Serve) -> Serve:
        """Return what serves a call inside a span, and hands the span on to the worker."""
        from opentelemetry.trace import SpanKind, use_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator()

        async def serve(call: Call) -> None:
            parent = context.extract({headers.TRACEPARENT: call.header(_TRACEPARENT)})
            operation = _OPERATIONS.get(call.path, call.path)
            attributes = {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "penstock",
                "url.path": call.path,
            }
            span = self._tracer.start_span(operation, parent, SpanKind.SERVER, attributes)
            with use_span(span, end_on_exit=True, record_exception=False):
                own: dict[str, str] = {}
                context.inject(own)
                kept = [(name, value) for name, value in call.headers if name != _TRACEPARENT]
                call.headers[:] = [
                    *kept,
                    *((name.encode(), value.encode()) for name, value in own.items()),
                ]
                await inner(call)

        return serve

    def close(self) -> None:
        """Send what is left; blocks for as long as that takes."""
        self._provider.shutdown()


class TracedMetrics(GatewayMetrics):
    """Tells the present span what it tells the metrics."""

    def refused(self, code: ErrorCode, tenant: str = "") -> None:
        """See `GatewayMetrics.refused`."""
        super().refused(code, tenant)
        _present().set_attribute("error.type", code.code)

    def used(self, tenant: str, tokens: int) -> None:
        """See `GatewayMetrics.used`."""
        super().used(tenant, tokens)
        if tenant:
            _present().set_attribute("penstock.tenant", tenant)
            _present().set_attribute("penstock.usage.total_tokens", tokens)

    def of_one(self, own: OfModel, model: str, arrived: float) -> RequestMetrics:
        """See `GatewayMetrics.of_one`."""
        return TracedRequest(self._instruments, own, model, arrived)


class TracedRequest(RequestMetrics):
    """Adds what becomes of a request to its span."""

    def __init__(self, instruments: Instruments, own: OfModel, model: str, arrived: float) -> None:
        super().__init__(instruments, own, model, arrived)
        self._span = _present()
        self._span.set_attribute("gen_ai.request.model", self._model)

    def let_through(self, now: float) -> None:
        """See `RequestMetrics.let_through`."""
        super().let_through(now)
        self._span.set_attribute("penstock.queue_seconds", now - self._arrived)

    def fault(self, fault: Fault) -> None:
        """See `RequestMetrics.fault`."""
        super().fault(fault)
        self._span.add_event("worker failed", {"penstock.fault": fault.value})

    def resumed(self, fault: Fault, gap: float) -> None:
        """See `RequestMetrics.resumed`."""
        super().resumed(fault, gap)
        self._span.add_event("resumed", {"penstock.gap_seconds": gap})

    def first_byte(self, now: float) -> None:
        """See `RequestMetrics.first_byte`."""
        super().first_byte(now)
        self._span.add_event("first byte")

    def ended(self, outcome: Outcome, now: float) -> None:
        """See `RequestMetrics.ended`."""
        super().ended(outcome, now)
        self._span.set_attribute("penstock.outcome", outcome.value)
        if outcome is Outcome.ERROR:
            self._span.set_attribute("error.type", "upstream")


class TracedDecisions(Decisions):
    """Adds each choice of a worker, with its reason, to the present span."""

    def note(self, decision: Decision) -> None:
        """See `Decisions.note`."""
        super().note(decision)
        _present().add_event(
            "worker chosen",
            {
                "penstock.worker": decision.choice.id,
                "penstock.attempt": decision.attempt,
                "penstock.reason": decision.choice.reason,
            },
        )


def _present() -> "Span":
    from opentelemetry.trace import get_current_span

    return get_current_span()
