"""Keeps a worker's metrics: vLLM's names and Penstock's own, as declared in the contract."""

from prometheus_client import CollectorRegistry

from penstock_contract import metrics as declared
from penstock_contract.instruments import Instruments
from penstock_contract.metrics import Metric
from penstock_worker.messages import Batch, Output, Stats


class WorkerMetrics:
    """Updated from the engine's batches and the life of each request.

    Args:
        registry: where the instruments live.
        model: label `model_name`.
    """

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._instruments = Instruments(registry, declared.WORKER)
        self._model = model
        self._last: Stats | None = None
        self._set(declared.WORKER_DRAINING, 0)

    def loaded(self, seconds: float) -> None:
        """The worker became ready, so long after its start."""
        self._set(declared.WORKER_LOAD_SECONDS, seconds)

    def draining(self, *, draining: bool) -> None:
        """The worker refuses new requests from now on, or takes them again."""
        self._set(declared.WORKER_DRAINING, draining)

    def batch(self, batch: Batch) -> None:
        """Take over the engine's state after a step."""
        stats, last = batch.stats, self._last
        self._last = stats
        self._set(declared.VLLM_RUNNING, stats.running)
        self._set(declared.VLLM_WAITING, stats.waiting)
        total = stats.blocks_free + stats.blocks_cached + stats.blocks_used
        self._set(declared.VLLM_KV_USAGE, stats.blocks_used / total)
        blocks = self._instruments.gauge(declared.WORKER_BLOCKS)
        for state, count in (
            ("free", stats.blocks_free),
            ("cached", stats.blocks_cached),
            ("used", stats.blocks_used),
        ):
            blocks.labels(self._model, state).set(count)
        for metric, now, before in (
            (declared.VLLM_PREFIX_QUERIES, stats.prefix_queries, last and last.prefix_queries),
            (declared.VLLM_PREFIX_HITS, stats.prefix_hits, last and last.prefix_hits),
            (declared.VLLM_PREEMPTIONS, stats.preemptions, last and last.preemptions),
        ):
            self._add(metric, now - (before or 0))
        if stats.step_seconds:
            self._observe(declared.WORKER_STEP_SECONDS, stats.step_seconds)
            tokens = self._instruments.counter(declared.WORKER_STEP_TOKENS)
            tokens.labels(self._model, "prefill").inc(stats.prefill_tokens)
            tokens.labels(self._model, "decode").inc(stats.decode_tokens)
        self._add(declared.VLLM_GENERATION_TOKENS, sum(len(o.tokens) for o in batch.outputs))

    def request(self, prompt_tokens: int, arrived: float) -> "RequestMetrics":
        """Return the keeper of one engine request's metrics."""
        return RequestMetrics(self._instruments, self._model, prompt_tokens, arrived)

    def _set(self, metric: Metric, value: float) -> None:
        self._instruments.gauge(metric).labels(self._model).set(value)

    def _add(self, metric: Metric, value: float) -> None:
        self._instruments.counter(metric).labels(self._model).inc(value)

    def _observe(self, metric: Metric, value: float) -> None:
        self._instruments.histogram(metric).labels(self._model).observe(value)


class RequestMetrics:
    """The latencies and sizes of one engine request. Times are monotonic seconds."""

    def __init__(
        self, instruments: Instruments, model: str, prompt_tokens: int, arrived: float
    ) -> None:
        self._instruments = instruments
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._arrived = arrived
        self._first: float | None = None
        self._latest = arrived
        self._tokens = 0

    def output(self, output: Output, now: float) -> None:
        """Take an output of the engine into account."""
        if output.tokens:
            if self._first is None:
                self._first = now
                prompt_tokens = self._instruments.counter(declared.VLLM_PROMPT_TOKENS)
                prompt_tokens.labels(self._model).inc(self._prompt_tokens)
                self._observe(declared.VLLM_TTFT, now - self._arrived)
                self._observe(declared.VLLM_QUEUE_TIME, output.queue_seconds)
            else:
                self._observe(declared.VLLM_ITL, now - self._latest)
            self._latest = now
            self._tokens += len(output.tokens)

    def finished(self, reason: str, now: float) -> None:
        """Close the request; `reason` is stop, length or abort."""
        counter = self._instruments.counter(declared.VLLM_REQUEST_SUCCESS)
        counter.labels(self._model, reason).inc()
        self._observe(declared.VLLM_E2E, now - self._arrived)
        self._observe(declared.VLLM_REQUEST_PROMPT_TOKENS, self._prompt_tokens)
        self._observe(declared.VLLM_REQUEST_GENERATION_TOKENS, self._tokens)
        if self._first is not None and self._tokens > 1:
            per_token = (self._latest - self._first) / (self._tokens - 1)
            self._observe(declared.VLLM_TPOT, per_token)

    def _observe(self, metric: Metric, value: float) -> None:
        self._instruments.histogram(metric).labels(self._model).observe(value)
