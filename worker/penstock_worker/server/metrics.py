"""Keeps a worker's metrics: vLLM's names and Penstock's own, as declared in the contract."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock_contract.handoff import LeaseOutcome, PullOutcome
from penstock_contract.instruments import Instruments
from penstock_contract.metrics import Metric
from penstock_contract.metrics import worker as declared
from penstock_contract.step_cost import moments
from penstock_contract.tiers import LoadOutcome, Medium, Skipped
from penstock_worker.messages import Batch, Drafted, HandoffStats, Output, Ready, Stats, TierStats


class _Series:
    """The instruments with the labels that all of a worker's series share.

    Looking a series up costs more than adding to it, and some are added to in every step: they are
    looked up once. A metric with an old name is kept under both.
    """

    def __init__(self, instruments: Instruments, model: str) -> None:
        self._instruments = instruments
        self._values = {"model_name": model, "engine": "0"}
        self._gauges: dict[tuple[str, str], tuple[Gauge, ...]] = {}
        self._counters: dict[tuple[str, str], tuple[Counter, ...]] = {}
        self._histograms: dict[str, tuple[Histogram, ...]] = {}

    def set(self, metric: Metric, value: float, **own: str) -> None:
        """Set a gauge."""
        key = (metric.name, "/".join(own.values()))
        if key not in self._gauges:
            self._gauges[key] = tuple(
                self._instruments.gauge(one).labels(**self._labels(one, own))
                for one in _names(metric)
            )
        for gauge in self._gauges[key]:
            gauge.set(value)

    def add(self, metric: Metric, value: float, *own: str) -> None:
        """Add to a counter; `own` are the values of its last labels, where it has its own."""
        key = (metric.name, "/".join(own))
        if key not in self._counters:
            last = dict(zip(reversed(metric.labels), reversed(own), strict=False))
            self._counters[key] = tuple(
                self._instruments.counter(one).labels(**self._labels(one, last))
                for one in _names(metric)
            )
        for counter in self._counters[key]:
            counter.inc(value)

    def observe(self, metric: Metric, value: float) -> None:
        """Put a value into a histogram."""
        if metric.name not in self._histograms:
            self._histograms[metric.name] = tuple(
                self._instruments.histogram(one).labels(**self._labels(one, {}))
                for one in _names(metric)
            )
        for histogram in self._histograms[metric.name]:
            histogram.observe(value)

    def _labels(self, metric: Metric, own: dict[str, str]) -> dict[str, str]:
        return {name: own.get(name) or self._values[name] for name in metric.labels}


def _names(metric: Metric) -> tuple[Metric, ...]:
    old = declared.OLD_NAMES.get(metric)
    return (metric,) if old is None else (metric, old)


class WorkerMetrics:
    """Updated from the engine's batches and the life of each request.

    Args:
        registry: where the instruments live.
        model: label `model_name`.
    """

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._series = _Series(Instruments(registry, declared.WORKER), model)
        self._last: Stats | None = None
        self._series.set(declared.WORKER_DRAINING, 0)
        self._handoff(HandoffStats(), HandoffStats())
        self._tier(TierStats(), TierStats())
        self._drafted(Drafted(0, 0, [0]))
        self.ignored(0)

    def loaded(self, ready: Ready, seconds: float) -> None:
        """The worker became ready, so long after its start."""
        self._series.set(declared.WORKER_LOAD_SECONDS, seconds)
        self._series.set(
            declared.VLLM_CACHE_CONFIG,
            1,
            block_size=str(ready.block_size),
            num_gpu_blocks=str(ready.num_blocks),
            enable_prefix_caching=str(ready.prefix_caching),
            cache_dtype=ready.kv_cache_dtype,
        )
        for term, cost in (ready.step_cost or {}).items():
            self._series.set(declared.WORKER_STEP_COST, cost, term=term)

    def draining(self, *, draining: bool) -> None:
        """The worker refuses new requests from now on, or takes them again."""
        self._series.set(declared.WORKER_DRAINING, int(draining))

    def batch(self, batch: Batch) -> None:
        """Take over the engine's state after a step."""
        stats, last = batch.stats, self._last
        self._last = stats
        self._state(stats)
        for metric, now, before in (
            (declared.VLLM_PREFIX_QUERIES, stats.prefix_queries, last and last.prefix_queries),
            (declared.VLLM_PREFIX_HITS, stats.prefix_hits, last and last.prefix_hits),
            (declared.VLLM_PREEMPTIONS, stats.preemptions, last and last.preemptions),
            (declared.WORKER_BOUNDED_STEPS, stats.bounded_steps, last and last.bounded_steps),
        ):
            self._series.add(metric, now - (before or 0))
        if stats.step_seconds:
            self._step(stats)
        handed = (last and last.handoff) or HandoffStats()
        if stats.handoff is not None and stats.handoff != handed:
            self._handoff(stats.handoff, handed)
        kept = (last and last.tier) or TierStats()
        if stats.tier is not None and stats.tier != kept:
            self._tier(stats.tier, kept)
        if stats.drafted is not None:
            self._drafted(stats.drafted)
        tokens = sum(len(output.tokens) for output in batch.outputs)
        self._series.add(declared.VLLM_GENERATION_TOKENS, tokens)

    def ignored(self, fields: int) -> None:
        """A request had so many fields that nobody knows."""
        self._series.add(declared.WORKER_IGNORED_FIELDS, fields)

    def request(self, prompt_tokens: int, arrived: float) -> "RequestMetrics":
        """Return the keeper of one engine request's metrics."""
        return RequestMetrics(self._series, prompt_tokens, arrived)

    def _state(self, stats: Stats) -> None:
        self._series.set(declared.VLLM_RUNNING, stats.running)
        self._series.set(declared.VLLM_WAITING, stats.waiting)
        total = stats.blocks_free + stats.blocks_cached + stats.blocks_used
        self._series.set(declared.VLLM_KV_USAGE, stats.blocks_used / max(1, total))
        for state, count in (
            ("free", stats.blocks_free),
            ("cached", stats.blocks_cached),
            ("used", stats.blocks_used),
        ):
            self._series.set(declared.WORKER_BLOCKS, count, state=state)

    def _drafted(self, drafted: Drafted) -> None:
        self._series.add(declared.VLLM_SPEC_DRAFTS, drafted.drafts)
        self._series.add(declared.VLLM_SPEC_DRAFT_TOKENS, drafted.tokens)
        self._series.add(declared.VLLM_SPEC_ACCEPTED, sum(drafted.accepted))
        for place, count in enumerate(drafted.accepted):
            self._series.add(declared.VLLM_SPEC_ACCEPTED_PER_POS, count, str(place))

    def _handoff(self, now: HandoffStats, before: HandoffStats) -> None:
        series = self._series
        series.set(declared.WORKER_KV_LEASED_BLOCKS, now.leased_blocks)
        for lease in LeaseOutcome:
            ended = now.lease_ends.get(lease, 0) - before.lease_ends.get(lease, 0)
            series.add(declared.WORKER_KV_LEASES, ended, lease)
        for pull in PullOutcome:
            series.add(
                declared.WORKER_KV_PULLS, now.pulls.get(pull, 0) - before.pulls.get(pull, 0), pull
            )
        series.add(declared.WORKER_KV_PULLED_BYTES, now.pulled_bytes - before.pulled_bytes)
        series.add(declared.WORKER_KV_PULL_SECONDS, now.pull_seconds - before.pull_seconds)

    def _tier(self, now: TierStats, before: TierStats) -> None:
        series, medium = self._series, str(Medium.DISK)
        series.set(declared.WORKER_TIER_USED, now.used_bytes, medium=medium)
        series.set(declared.WORKER_TIER_CAPACITY, now.capacity_bytes, medium=medium)
        for metric, increase in (
            (declared.WORKER_TIER_QUERIES, now.queries - before.queries),
            (declared.WORKER_TIER_HITS, now.hits - before.hits),
            (declared.WORKER_TIER_LOADED_BYTES, now.loaded_bytes - before.loaded_bytes),
            (declared.WORKER_TIER_LOAD_SECONDS, now.load_seconds - before.load_seconds),
            (declared.WORKER_TIER_STORED_BYTES, now.stored_bytes - before.stored_bytes),
            (declared.WORKER_TIER_CORRUPT, now.corrupt - before.corrupt),
        ):
            series.add(metric, increase, medium)
        for outcome in LoadOutcome:
            ended = now.loads.get(outcome, 0) - before.loads.get(outcome, 0)
            series.add(declared.WORKER_TIER_LOADS, ended, medium, outcome)
        for reason in Skipped:
            skipped = now.skipped.get(reason, 0) - before.skipped.get(reason, 0)
            series.add(declared.WORKER_TIER_SKIPPED, skipped, medium, reason)

    def _step(self, stats: Stats) -> None:
        prefill, decode, seconds = stats.prefill_tokens, stats.decode_tokens, stats.step_seconds
        self._series.observe(declared.WORKER_STEP_SECONDS, seconds)
        self._series.observe(declared.VLLM_STEP_TOKENS, prefill + decode)
        self._series.add(declared.WORKER_STEP_TOKENS, prefill, "prefill")
        self._series.add(declared.WORKER_STEP_TOKENS, decode, "decode")
        self._series.add(declared.WORKER_STEP_CONTEXT, stats.kv_tokens)
        for product, value in moments(seconds, prefill, decode, stats.kv_tokens):
            self._series.add(declared.WORKER_STEP_MOMENTS, value, product)


class RequestMetrics:
    """The latencies and sizes of one engine request. Times are monotonic seconds."""

    def __init__(self, series: _Series, prompt_tokens: int, arrived: float) -> None:
        self._series = series
        self._prompt_tokens = prompt_tokens
        self._arrived = arrived
        self._scheduled = arrived
        self._first: float | None = None
        self._latest = arrived
        self._tokens = 0

    @property
    def ttft(self) -> float | None:
        """Seconds until the first token; None: it has not come."""
        return None if self._first is None else self._first - self._arrived

    def output(self, output: Output, now: float) -> None:
        """Take an output of the engine into account."""
        if not output.tokens:
            return
        if self._first is None:
            self._first = now
            self._begun(output, now)
        else:
            self._series.observe(declared.VLLM_ITL, now - self._latest)
        self._latest = now
        self._tokens += len(output.tokens)

    def computed(self, queue_seconds: float, now: float) -> None:
        """All inputs are computed, which is to them what the first token is to generation."""
        self._first = self._latest = now
        self._begun(Output("", [], queue_seconds=queue_seconds), now)

    def finished(self, reason: str, now: float) -> None:
        """Close the request; `reason` is stop, length or abort."""
        self._series.add(declared.VLLM_REQUEST_SUCCESS, 1, reason)
        self._series.observe(declared.VLLM_E2E, now - self._arrived)
        self._series.observe(declared.VLLM_REQUEST_PROMPT_TOKENS, self._prompt_tokens)
        self._series.observe(declared.VLLM_REQUEST_GENERATION_TOKENS, self._tokens)
        if self._first is None:
            return
        decoding = self._latest - self._first
        self._series.observe(declared.VLLM_INFERENCE_TIME, self._latest - self._scheduled)
        self._series.observe(declared.VLLM_DECODE_TIME, decoding)
        if self._tokens > 1:
            self._series.observe(declared.VLLM_TPOT, decoding / (self._tokens - 1))

    def _begun(self, output: Output, now: float) -> None:
        self._scheduled = min(now, self._arrived + output.queue_seconds)
        self._series.add(declared.VLLM_PROMPT_TOKENS, self._prompt_tokens)
        self._series.add(declared.VLLM_CACHED_TOKENS, output.cached_tokens)
        self._series.observe(
            declared.VLLM_COMPUTED_PROMPT_TOKENS, self._prompt_tokens - output.cached_tokens
        )
        self._series.observe(declared.VLLM_TTFT, now - self._arrived)
        self._series.observe(declared.VLLM_QUEUE_TIME, output.queue_seconds)
        self._series.observe(declared.VLLM_PREFILL_TIME, now - self._scheduled)
