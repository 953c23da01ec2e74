"""Keeps the gateway's metrics, as declared in the contract; one outcome per admitted request."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from penstock_contract.errors import ErrorCode
from penstock_contract.fleet import Fleet
from penstock_contract.metrics import Fault, Metric, Outcome, Prefill
from penstock_contract.metrics import gateway as declared
from penstock_gateway.fleet.source import FleetHealth
from penstock_gateway.instruments import Histogram, Instruments, Number, Series


class GatewayMetrics:
    """All instruments of a gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._instruments = Instruments(registry, declared.GATEWAY)
        self._of_models: dict[str, OfModel] = {}
        self._of_batches: dict[str, OfModel] = {}
        self.bodies = self._instruments.gauge(declared.GATEWAY_BODIES).labels()
        """Bytes of request bodies that are held."""
        self._instruments.gauge(declared.GATEWAY_PROCESSES).labels("answering").set(1)

    def series(self) -> Series:
        """Return all of it as plain values."""
        return self._instruments.series()

    def refused(self, code: ErrorCode, tenant: str = "") -> None:
        """A request was refused before it was admitted; of a tenant, if it is known."""
        i = self._instruments
        i.counter(declared.GATEWAY_REFUSALS).labels(code.code).inc()
        if tenant:
            i.counter(declared.GATEWAY_TENANT_REFUSALS).labels(tenant, code.code).inc()

    def used(self, tenant: str, tokens: int) -> None:
        """A request of a tenant has ended."""
        if tenant:
            i = self._instruments
            i.counter(declared.GATEWAY_TENANT_REQUESTS).labels(tenant).inc()
            i.counter(declared.GATEWAY_TENANT_TOKENS).labels(tenant).inc(tokens)

    def tenants(self, count: int) -> None:
        """The tenants changed."""
        self._instruments.gauge(declared.GATEWAY_TENANTS).set(count)

    def fleet(self, fleet: Fleet) -> None:
        """The fleet changed."""
        gauge = self._instruments.gauge(declared.GATEWAY_WORKERS)
        gauge.clear()
        for (deployment, state), count in Counter(
            (worker.deployment, worker.state) for worker in fleet.workers
        ).items():
            gauge.labels(deployment, state).set(count)
        for model in fleet.models:  # what has not happened yet is told as 0
            for arrivals in (declared.GATEWAY_ARRIVALS, declared.GATEWAY_SPARE_ARRIVALS):
                self._instruments.counter(arrivals).labels(model.name)
            for level in (
                declared.GATEWAY_QUEUED,
                declared.GATEWAY_IN_FLIGHT,
                declared.GATEWAY_SPARE_IN_FLIGHT,
            ):
                self._instruments.gauge(level).labels(model.name)
            for times in (declared.GATEWAY_QUEUE_SECONDS, declared.GATEWAY_DURATION):
                self._instruments.histogram(times).labels(model.name)
            for rare in (
                declared.GATEWAY_RETRIES,
                declared.GATEWAY_RETRIES_DENIED,
                declared.GATEWAY_STARVED,
                declared.GATEWAY_PREFIX_PREDICTED,
                declared.GATEWAY_PREFIX_CACHED,
                declared.GATEWAY_PREFIX_RIGHT,
            ):
                self._instruments.counter(rare).labels(model.name)
            self._instruments.counter(declared.GATEWAY_EJECTIONS).labels(model.deployment)
            self._instruments.histogram(declared.GATEWAY_RESUME_SECONDS).labels(model.name)
            for outcome in Prefill:
                prefills = self._instruments.counter(declared.GATEWAY_PREFILLS)
                prefills.labels(model.name, outcome.value)
            for fault in Fault:
                for counter in (declared.GATEWAY_WORKER_FAULTS, declared.GATEWAY_RESUMES):
                    self._instruments.counter(counter).labels(model.name, fault.value)

    def ejected(self, deployment: str) -> None:
        """A worker was put aside for being slow."""
        self._instruments.counter(declared.GATEWAY_EJECTIONS).labels(deployment).inc()

    def held(self, found: Iterable[tuple[str, str, int]]) -> None:
        """So many requests for a model wait for workers that have enough prompts."""
        gauge = self._instruments.gauge(declared.GATEWAY_HELD)
        gauge.clear()
        for model, workers, count in found:
            gauge.labels(model, workers).inc(count)

    def prompt_tokens(self, found: Iterable[tuple[str, float]]) -> None:
        """A prompt token of a model takes its fastest worker so many seconds."""
        gauge = self._instruments.gauge(declared.GATEWAY_PROMPT_TOKEN)
        gauge.clear()
        for model, seconds in found:
            gauge.labels(model).set(seconds)

    def fleet_health(self, health: FleetHealth) -> None:
        """How far the fleet can be relied on."""
        i = self._instruments
        i.gauge(declared.GATEWAY_FLEET_STALE).set(health.stale)
        i.gauge(declared.GATEWAY_NAME_CONFLICTS).set(health.name_conflicts)

    def request(
        self, model: str, prompt_bytes: int, arrived: float, *, spare: bool = False
    ) -> "RequestMetrics":
        """A request was admitted; it waits now, or goes on at once. That of a batch is spare."""
        known = self._of_batches if spare else self._of_models
        found = known.get(model)
        if found is None:
            found = known[model] = OfModel.among(self._instruments, model, spare=spare)
        found.arrivals.inc()
        found.prompt_bytes.inc(prompt_bytes)
        found.queued.inc()
        return self.of_one(found, model, arrived)

    def of_one(self, own: "OfModel", model: str, arrived: float) -> "RequestMetrics":
        """Return what keeps the metrics of one request."""
        return RequestMetrics(self._instruments, own, model, arrived)


@dataclass(frozen=True)
class OfModel:
    """What every request to a model changes, looked up once."""

    arrivals: Number
    prompt_bytes: Number
    queued: Number
    in_flight: Number
    queue_seconds: Histogram
    overhead: Histogram
    predicted: Number
    cached: Number
    right: Number
    ttft: Histogram
    duration: Histogram
    complete: Number

    @classmethod
    def among(cls, i: Instruments, model: str, *, spare: bool) -> "OfModel":
        """Return those of a model, for requests of clients or of batches."""
        arrivals = declared.GATEWAY_SPARE_ARRIVALS if spare else declared.GATEWAY_ARRIVALS
        in_flight = declared.GATEWAY_SPARE_IN_FLIGHT if spare else declared.GATEWAY_IN_FLIGHT

        def histogram(found: Metric) -> Histogram:
            """Times are for clients who wait; those of batches are not told."""
            return Histogram(found.buckets) if spare else i.histogram(found).labels(model)

        return cls(
            i.counter(arrivals).labels(model),
            i.counter(declared.GATEWAY_PROMPT_BYTES).labels(model),
            i.gauge(declared.GATEWAY_QUEUED).labels(model),
            i.gauge(in_flight).labels(model),
            histogram(declared.GATEWAY_QUEUE_SECONDS),
            i.histogram(declared.GATEWAY_OVERHEAD).labels(model),
            i.counter(declared.GATEWAY_PREFIX_PREDICTED).labels(model),
            i.counter(declared.GATEWAY_PREFIX_CACHED).labels(model),
            i.counter(declared.GATEWAY_PREFIX_RIGHT).labels(model),
            histogram(declared.GATEWAY_TTFT),
            histogram(declared.GATEWAY_DURATION),
            i.counter(declared.GATEWAY_OUTCOMES).labels(model, Outcome.COMPLETE.value),
        )


class RequestMetrics:
    """The metrics of one admitted request. Times are monotonic seconds."""

    def __init__(self, instruments: Instruments, own: OfModel, model: str, arrived: float) -> None:
        self._instruments = instruments
        self._own = own
        self._model = model
        self._arrived = arrived
        self._waits = True

    def let_through(self, now: float) -> None:
        """A worker has room for the request."""
        self._waits = False
        own = self._own
        own.queued.dec()
        own.in_flight.inc()
        own.queue_seconds.observe(now - self._arrived)

    def dispatched(self, received: float, now: float) -> None:
        """The request goes to a worker."""
        self._own.overhead.observe(now - received)

    def prefix(self, predicted: int, cached: int) -> None:
        """The answer tells how many prompt tokens were cached, so many having been expected."""
        own = self._own
        own.predicted.inc(predicted)
        own.cached.inc(cached)
        own.right.inc(min(predicted, cached))

    def retried(self) -> None:
        """The request is sent once more."""
        self._instruments.counter(declared.GATEWAY_RETRIES).labels(self._model).inc()

    def starved(self) -> None:
        """The request waits for what the gateway itself lacks to connect to a worker."""
        self._instruments.counter(declared.GATEWAY_STARVED).labels(self._model).inc()

    def retry_denied(self) -> None:
        """The request is not sent once more: too many are."""
        self._instruments.counter(declared.GATEWAY_RETRIES_DENIED).labels(self._model).inc()

    def prefill(self, outcome: Prefill) -> None:
        """Where the request's prompt was computed."""
        counter = self._instruments.counter(declared.GATEWAY_PREFILLS)
        counter.labels(self._model, outcome.value).inc()

    def fault(self, fault: Fault) -> None:
        """A worker did not serve the request to its end."""
        counter = self._instruments.counter(declared.GATEWAY_WORKER_FAULTS)
        counter.labels(self._model, fault.value).inc()

    def resumed(self, fault: Fault, gap: float) -> None:
        """The stream goes on at another worker, so many seconds after a fault of the one before."""
        i, model = self._instruments, self._model
        i.counter(declared.GATEWAY_RESUMES).labels(model, fault.value).inc()
        i.histogram(declared.GATEWAY_RESUME_SECONDS).labels(model).observe(gap)

    def first_byte(self, now: float) -> None:
        """The answer begins."""
        self._own.ttft.observe(now - self._arrived)

    def ended(self, outcome: Outcome, now: float) -> None:
        """The request is over."""
        own = self._own
        (own.queued if self._waits else own.in_flight).dec()
        if outcome is Outcome.COMPLETE:
            own.complete.inc()
        else:
            outcomes = self._instruments.counter(declared.GATEWAY_OUTCOMES)
            outcomes.labels(self._model, outcome.value).inc()
        own.duration.observe(now - self._arrived)
