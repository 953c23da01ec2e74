"""Every metric that Penstock exports: name, kind, help, labels, buckets, unit.

Workers use vLLM's names, so dashboards, the autoscaler and other routers read a Penstock worker
and a vLLM pod alike. `penstock_contract.instruments` makes Prometheus objects from these.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """Prometheus metric types in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric family. A counter's name is given without `_total`, which Prometheus adds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported_name(self) -> str:
        """The name as a query writes it (histograms add `_bucket`, `_sum`, `_count`)."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


def _counter(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, help_, labels)


def _gauge(name: str, help_: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, help_, labels)


def _histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, help_, labels, buckets)


# vLLM's own buckets, so that quantiles computed over mixed fleets agree.
TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
ITL_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
LATENCY_BUCKETS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
TOKEN_BUCKETS: Final = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000,
)  # fmt: skip
STEP_TOKEN_BUCKETS: Final = (
    1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
)  # fmt: skip
STEP_BUCKETS: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
DISPATCH_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)

# --- worker -------------------------------------------------------------------------------------

_M = "model_name"
_V: Final = (_M, "engine")
"""vLLM's labels; `engine` is the data-parallel rank, here always 0."""
VLLM_RUNNING: Final = _gauge("vllm:num_requests_running", "Requests in the running queue.", *_V)
VLLM_WAITING: Final = _gauge("vllm:num_requests_waiting", "Requests in the waiting queue.", *_V)
VLLM_KV_USAGE: Final = _gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", *_V)
VLLM_PREFIX_QUERIES: Final = _counter(
    "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", *_V
)
VLLM_PREFIX_HITS: Final = _counter(
    "vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", *_V
)
VLLM_PREEMPTIONS: Final = _counter(
    "vllm:num_preemptions", "Requests that lost their KV blocks and are computed again.", *_V
)
VLLM_SPEC_DRAFTS: Final = _counter(
    "vllm:spec_decode_num_drafts", "Times that draft tokens were proposed.", *_V
)
VLLM_SPEC_DRAFT_TOKENS: Final = _counter(
    "vllm:spec_decode_num_draft_tokens", "Draft tokens proposed and computed.", *_V
)
VLLM_SPEC_ACCEPTED: Final = _counter(
    "vllm:spec_decode_num_accepted_tokens", "Draft tokens that were right.", *_V
)
VLLM_SPEC_ACCEPTED_PER_POS: Final = _counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos",
    "Draft tokens that were right, by their place in the draft.",
    *_V,
    "position",
)
VLLM_PROMPT_TOKENS: Final = _counter("vllm:prompt_tokens", "Prompt tokens processed.", *_V)
VLLM_GENERATION_TOKENS: Final = _counter("vllm:generation_tokens", "Tokens generated.", *_V)
VLLM_REQUEST_SUCCESS: Final = _counter(
    "vllm:request_success", "Requests that ended, by reason.", *_V, "finished_reason"
)
VLLM_TTFT: Final = _histogram(
    "vllm:time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS, *_V
)
VLLM_ITL: Final = _histogram(
    "vllm:inter_token_latency_seconds", "Time between output tokens.", ITL_BUCKETS, *_V
)
VLLM_TPOT: Final = _histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean time per output token of a request, after its first.",
    ITL_BUCKETS,
    *_V,
)
VLLM_E2E: Final = _histogram(
    "vllm:e2e_request_latency_seconds", "Time from arrival to last token.", LATENCY_BUCKETS, *_V
)
VLLM_QUEUE_TIME: Final = _histogram(
    "vllm:request_queue_time_seconds", "Time in the waiting queue.", LATENCY_BUCKETS, *_V
)
VLLM_REQUEST_PROMPT_TOKENS: Final = _histogram(
    "vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKEN_BUCKETS, *_V
)
VLLM_REQUEST_GENERATION_TOKENS: Final = _histogram(
    "vllm:request_generation_tokens", "Generated tokens of a request.", TOKEN_BUCKETS, *_V
)
VLLM_CACHED_TOKENS: Final = _counter(
    "vllm:prompt_tokens_cached", "Prompt tokens that were not computed: they were cached.", *_V
)
VLLM_STEP_TOKENS: Final = _histogram(
    "vllm:iteration_tokens_total", "Tokens computed in an engine step.", STEP_TOKEN_BUCKETS, *_V
)
VLLM_PREFILL_TIME: Final = _histogram(
    "vllm:request_prefill_time_seconds",
    "Time from the first step to the first token.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_DECODE_TIME: Final = _histogram(
    "vllm:request_decode_time_seconds",
    "Time from the first token to the last.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_INFERENCE_TIME: Final = _histogram(
    "vllm:request_inference_time_seconds",
    "Time from the first step to the last token.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_COMPUTED_PROMPT_TOKENS: Final = _histogram(
    "vllm:request_prefill_kv_computed_tokens",
    "Prompt tokens of a request that were computed.",
    TOKEN_BUCKETS,
    *_V,
)
VLLM_CACHE_CONFIG: Final = _gauge(
    "vllm:cache_config_info",
    "1; its labels tell the KV cache's shape.",
    "engine",
    "block_size",
    "num_gpu_blocks",
    "enable_prefix_caching",
)

# Names that vLLM has given up and dashboards still ask for; each repeats its successor.
VLLM_OLD_KV_USAGE: Final = _gauge(
    "vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc.", *_V
)
VLLM_OLD_PREFIX_QUERIES: Final = _counter(
    "vllm:gpu_prefix_cache_queries", "Old name of vllm:prefix_cache_queries.", *_V
)
VLLM_OLD_PREFIX_HITS: Final = _counter(
    "vllm:gpu_prefix_cache_hits", "Old name of vllm:prefix_cache_hits.", *_V
)
VLLM_OLD_ITL: Final = _histogram(
    "vllm:time_per_output_token_seconds",
    "Old name of vllm:inter_token_latency_seconds.",
    ITL_BUCKETS,
    *_V,
)
OLD_NAMES: Final = {
    VLLM_KV_USAGE: VLLM_OLD_KV_USAGE,
    VLLM_PREFIX_QUERIES: VLLM_OLD_PREFIX_QUERIES,
    VLLM_PREFIX_HITS: VLLM_OLD_PREFIX_HITS,
    VLLM_ITL: VLLM_OLD_ITL,
}
"""The old name of a metric."""

WORKER_BLOCKS: Final = _gauge(
    "penstock_worker_kv_blocks", "KV blocks by state; the states add up to the pool.", _M, "state"
)
WORKER_STEP_SECONDS: Final = _histogram(
    "penstock_worker_step_seconds", "Duration of an engine step.", STEP_BUCKETS, _M
)
WORKER_STEP_TOKENS: Final = _counter(
    "penstock_worker_step_tokens", "Tokens computed in engine steps, by kind.", _M, "kind"
)
WORKER_STEP_CONTEXT: Final = _counter(
    "penstock_worker_step_context_tokens", "Tokens of context that engine steps have read.", _M
)
WORKER_STEP_MOMENTS: Final = _counter(
    "penstock_worker_step_moments",
    "Sums over engine steps of products of what they computed and took, each over its seconds "
    "squared: increases over a window are the normal equations of the step's cost in relative "
    "errors (penstock_contract.step_cost).",
    _M,
    "product",
)
WORKER_STEP_COST: Final = _gauge(
    "penstock_worker_step_cost_seconds",
    "What a step, a prompt token, a decoding sequence and a token of context cost, as measured "
    "when the worker started.",
    _M,
    "term",
)
WORKER_BOUNDED_STEPS: Final = _counter(
    "penstock_worker_bounded_steps",
    "Engine steps whose prompts were cut so that requests that decode keep their TPOT objective.",
    _M,
)
WORKER_IGNORED_FIELDS: Final = _counter(
    "penstock_worker_ignored_fields", "Fields of requests that are unknown and were ignored.", _M
)
WORKER_DRAINING: Final = _gauge(
    "penstock_worker_draining", "1 while the worker refuses new requests and finishes its own.", _M
)
WORKER_LOAD_SECONDS: Final = _gauge(
    "penstock_worker_load_seconds", "Time from process start until ready to serve.", _M
)
WORKER_KV_PULLS: Final = _counter(
    "penstock_worker_kv_pulls",
    "Prompts whose KV this worker was to pull from another one, by outcome.",
    _M,
    "outcome",
)
WORKER_KV_PULLED_BYTES: Final = _counter(
    "penstock_worker_kv_pulled_bytes", "KV pulled from other workers and found to be right.", _M
)
WORKER_KV_PULL_SECONDS: Final = _counter(
    "penstock_worker_kv_pull_seconds", "Time that requests waited for KV of other workers.", _M
)
WORKER_KV_LEASES: Final = _counter(
    "penstock_worker_kv_leases",
    "Leases on KV for other workers that ended, by outcome.",
    _M,
    "outcome",
)
WORKER_KV_LEASED_BLOCKS: Final = _gauge(
    "penstock_worker_kv_leased_blocks", "KV blocks that are kept for other workers.", _M
)
WORKER_TIER_QUERIES: Final = _counter(
    "penstock_worker_kv_tier_queries",
    "Prompt tokens that the prefix cache did not have, looked up in a slower tier.",
    _M,
    "medium",
)
WORKER_TIER_HITS: Final = _counter(
    "penstock_worker_kv_tier_hits",
    "Of them, those whose KV was loaded; they are hits of the prefix cache, too.",
    _M,
    "medium",
)
WORKER_TIER_LOADS: Final = _counter(
    "penstock_worker_kv_tier_loads",
    "Prompts of which a slower tier had blocks, by what became of it.",
    _M,
    "medium",
    "outcome",
)
WORKER_TIER_LOADED_BYTES: Final = _counter(
    "penstock_worker_kv_tier_loaded_bytes", "KV loaded from a slower tier.", _M, "medium"
)
WORKER_TIER_LOAD_SECONDS: Final = _counter(
    "penstock_worker_kv_tier_load_seconds", "Time that these loads took.", _M, "medium"
)
WORKER_TIER_STORED_BYTES: Final = _counter(
    "penstock_worker_kv_tier_stored_bytes", "KV written to a slower tier.", _M, "medium"
)
WORKER_TIER_SKIPPED: Final = _counter(
    "penstock_worker_kv_tier_skipped_blocks",
    "Blocks that left the prefix cache and were not kept, by reason.",
    _M,
    "medium",
    "reason",
)
WORKER_TIER_CORRUPT: Final = _counter(
    "penstock_worker_kv_tier_corrupt_blocks",
    "Blocks found damaged in a slower tier: removed, and computed instead.",
    _M,
    "medium",
)
WORKER_TIER_USED: Final = _gauge(
    "penstock_worker_kv_tier_used_bytes", "What blocks take of a slower tier.", _M, "medium"
)
WORKER_TIER_CAPACITY: Final = _gauge(
    "penstock_worker_kv_tier_capacity_bytes", "What they may take.", _M, "medium"
)

WORKER: Final = (
    VLLM_RUNNING, VLLM_WAITING, VLLM_KV_USAGE, VLLM_PREFIX_QUERIES, VLLM_PREFIX_HITS,
    VLLM_PREEMPTIONS, VLLM_SPEC_DRAFTS, VLLM_SPEC_DRAFT_TOKENS, VLLM_SPEC_ACCEPTED,
    VLLM_SPEC_ACCEPTED_PER_POS, VLLM_PROMPT_TOKENS, VLLM_GENERATION_TOKENS, VLLM_REQUEST_SUCCESS,
    VLLM_TTFT, VLLM_ITL, VLLM_TPOT, VLLM_E2E, VLLM_QUEUE_TIME, VLLM_REQUEST_PROMPT_TOKENS,
    VLLM_REQUEST_GENERATION_TOKENS, VLLM_CACHED_TOKENS, VLLM_STEP_TOKENS, VLLM_PREFILL_TIME,
    VLLM_DECODE_TIME, VLLM_INFERENCE_TIME, VLLM_COMPUTED_PROMPT_TOKENS, VLLM_CACHE_CONFIG,
    VLLM_OLD_KV_USAGE, VLLM_OLD_PREFIX_QUERIES, VLLM_OLD_PREFIX_HITS,
    VLLM_OLD_ITL, WORKER_BLOCKS, WORKER_STEP_SECONDS, WORKER_STEP_TOKENS, WORKER_STEP_CONTEXT,
    WORKER_STEP_MOMENTS, WORKER_STEP_COST, WORKER_IGNORED_FIELDS, WORKER_DRAINING,
    WORKER_LOAD_SECONDS, WORKER_KV_PULLS, WORKER_KV_PULLED_BYTES, WORKER_KV_PULL_SECONDS,
    WORKER_KV_LEASES, WORKER_KV_LEASED_BLOCKS, WORKER_BOUNDED_STEPS,
    WORKER_TIER_QUERIES, WORKER_TIER_HITS, WORKER_TIER_LOADS, WORKER_TIER_LOADED_BYTES,
    WORKER_TIER_LOAD_SECONDS, WORKER_TIER_STORED_BYTES, WORKER_TIER_SKIPPED, WORKER_TIER_CORRUPT,
    WORKER_TIER_USED, WORKER_TIER_CAPACITY,
)  # fmt: skip
"""What a worker exports. Label model_name is the served name."""

# --- gateway ------------------------------------------------------------------------------------

GATEWAY_ARRIVALS: Final = _counter(
    "penstock_gateway_arrivals",
    "Requests admitted or queued for a model, but for those of batches: the offered load that the "
    "autoscaler sizes by.",
    "model",
)
GATEWAY_SPARE_ARRIVALS: Final = _counter(
    "penstock_gateway_spare_arrivals",
    "Requests of batches admitted where there was room to spare: nothing is sized by them.",
    "model",
)
GATEWAY_SPARE_IN_FLIGHT: Final = _gauge(
    "penstock_gateway_spare_in_flight",
    "Requests of batches sent to a worker and not ended.",
    "model",
)
GATEWAY_PROMPT_BYTES: Final = _counter(
    "penstock_gateway_prompt_bytes", "Bytes of prompt text that arrived.", "model"
)
GATEWAY_OUTCOMES: Final = _counter(
    "penstock_gateway_outcomes",
    "Requests that ended, each with exactly one outcome.",
    "model",
    "outcome",
)
GATEWAY_REFUSALS: Final = _counter(
    "penstock_gateway_refusals", "Requests refused before admission, by error code.", "code"
)
GATEWAY_IN_FLIGHT: Final = _gauge(
    "penstock_gateway_in_flight",
    "Requests sent to a worker and not ended, but for those of batches.",
    "model",
)
GATEWAY_TTFT: Final = _histogram(
    "penstock_gateway_time_to_first_byte_seconds",
    "From arrival to the first body byte from the worker.",
    TTFT_BUCKETS,
    "model",
)
GATEWAY_DURATION: Final = _histogram(
    "penstock_gateway_request_duration_seconds",
    "From arrival to the outcome.",
    LATENCY_BUCKETS,
    "model",
)
GATEWAY_OVERHEAD: Final = _histogram(
    "penstock_gateway_dispatch_seconds",
    "From the complete request to the first byte sent to a worker.",
    DISPATCH_BUCKETS,
    "model",
)
GATEWAY_WORKERS: Final = _gauge(
    "penstock_gateway_workers", "Workers known to the gateway, by state.", "deployment", "state"
)
GATEWAY_RETRIES: Final = _counter(
    "penstock_gateway_retries", "Requests sent again before their first byte.", "model"
)
GATEWAY_RETRIES_DENIED: Final = _counter(
    "penstock_gateway_retries_denied",
    "Requests that were not sent again because the retry budget was spent.",
    "model",
)
GATEWAY_STARVED: Final = _counter(
    "penstock_gateway_starved",
    "Requests that waited because the gateway itself had no file descriptor, port or memory left "
    "for a connection to a worker.",
    "model",
)
GATEWAY_WORKER_FAULTS: Final = _counter(
    "penstock_gateway_worker_faults",
    "Requests that a worker did not serve to their end, by cause.",
    "model",
    "cause",
)
GATEWAY_EJECTIONS: Final = _counter(
    "penstock_gateway_ejections",
    "Workers put aside for a while because they stream much slower than the rest of their pool.",
    "deployment",
)
GATEWAY_RESUMES: Final = _counter(
    "penstock_gateway_resumes",
    "Streams that went on at another worker, by what ended them at the one before.",
    "model",
    "cause",
)
GATEWAY_RESUME_SECONDS: Final = _histogram(
    "penstock_gateway_resume_seconds",
    "From the end of a stream at one worker to its first event from the next.",
    TTFT_BUCKETS,
    "model",
)
GATEWAY_PREFILLS: Final = _counter(
    "penstock_gateway_prefills",
    "Requests of models with prefill workers, by what became of their prompts.",
    "model",
    "outcome",
)
GATEWAY_PREFIX_PREDICTED: Final = _counter(
    "penstock_gateway_prefix_predicted_tokens",
    "Prompt tokens that the chosen worker was expected to have cached, where its answer tells.",
    "model",
)
GATEWAY_PREFIX_CACHED: Final = _counter(
    "penstock_gateway_prefix_cached_tokens",
    "Prompt tokens that the chosen worker had cached, by its own account.",
    "model",
)
GATEWAY_PREFIX_RIGHT: Final = _counter(
    "penstock_gateway_prefix_right_tokens",
    "Prompt tokens both expected and cached: over the predicted ones this is the prediction's "
    "precision, over the cached ones its recall.",
    "model",
)

GATEWAY_QUEUED: Final = _gauge(
    "penstock_gateway_queued", "Requests that wait until a worker has room.", "model"
)
GATEWAY_QUEUE_SECONDS: Final = _histogram(
    "penstock_gateway_queue_seconds",
    "From arrival until a worker had room.",
    LATENCY_BUCKETS,
    "model",
)
GATEWAY_NAME_CONFLICTS: Final = _gauge(
    "penstock_gateway_name_conflicts",
    "Served names that more than one InferenceDeployment claims; the oldest one has them.",
)
GATEWAY_FLEET_STALE: Final = _gauge(
    "penstock_gateway_fleet_stale",
    "1 while the source of the fleet cannot be followed and the last one known goes on serving.",
)
GATEWAY_PROCESSES: Final = _gauge(
    "penstock_gateway_processes",
    "Processes of this gateway (--processes), by whether they answered when this was read: of a "
    "silent one, the counts are its last ones.",
    "state",
)
GATEWAY_BODIES: Final = _gauge(
    "penstock_gateway_request_body_bytes", "Bytes of request bodies that the gateway holds."
)
GATEWAY_TENANTS: Final = _gauge(
    "penstock_gateway_tenants", "Tenants known to the gateway; with none, nobody needs a key."
)
GATEWAY_TENANT_REQUESTS: Final = _counter(
    "penstock_gateway_tenant_requests", "Admitted requests that ended, by tenant.", "tenant"
)
GATEWAY_TENANT_TOKENS: Final = _counter(
    "penstock_gateway_tenant_tokens",
    "Tokens of prompts and answers; where an answer says nothing of its usage, estimated.",
    "tenant",
)
GATEWAY_TENANT_REFUSALS: Final = _counter(
    "penstock_gateway_tenant_refusals",
    "Requests of a known tenant that were refused before admission, by error code.",
    "tenant",
    "code",
)

GATEWAY: Final = (
    GATEWAY_ARRIVALS, GATEWAY_SPARE_ARRIVALS, GATEWAY_SPARE_IN_FLIGHT, GATEWAY_PROMPT_BYTES,
    GATEWAY_OUTCOMES, GATEWAY_REFUSALS, GATEWAY_IN_FLIGHT,
    GATEWAY_TTFT, GATEWAY_DURATION, GATEWAY_OVERHEAD, GATEWAY_WORKERS, GATEWAY_RETRIES,
    GATEWAY_RETRIES_DENIED, GATEWAY_STARVED, GATEWAY_WORKER_FAULTS, GATEWAY_EJECTIONS,
    GATEWAY_RESUMES, GATEWAY_RESUME_SECONDS, GATEWAY_PREFILLS,
    GATEWAY_PREFIX_PREDICTED, GATEWAY_PREFIX_CACHED, GATEWAY_PREFIX_RIGHT, GATEWAY_QUEUED,
    GATEWAY_QUEUE_SECONDS, GATEWAY_PROCESSES, GATEWAY_BODIES,
    GATEWAY_NAME_CONFLICTS, GATEWAY_FLEET_STALE, GATEWAY_TENANTS, GATEWAY_TENANT_REQUESTS,
    GATEWAY_TENANT_TOKENS, GATEWAY_TENANT_REFUSALS,
)  # fmt: skip

# --- batch service ------------------------------------------------------------------------------

BATCHES: Final = _gauge(
    "penstock_batch_batches", "Batches that have not ended, by status.", "status"
)
BATCH_ENDED: Final = _counter("penstock_batch_ended", "Batches that ended, by status.", "status")
BATCH_REQUESTS: Final = _counter(
    "penstock_batch_requests",
    "Requests of batches that have their line in an output or error file, by what became of them.",
    "outcome",
)
BATCH_IN_FLIGHT: Final = _gauge(
    "penstock_batch_in_flight", "Requests of batches that wait for the gateway's answer."
)
BATCH_WINDOW: Final = _gauge(
    "penstock_batch_window", "Requests that all batches together would have in flight now."
)
BATCH_BACKOFFS: Final = _counter(
    "penstock_batch_backoffs",
    "Times that a batch halved what it has in flight, by the status of the answer; 0 is no answer.",
    "status",
)
BATCH_FILES: Final = _gauge("penstock_batch_files", "Files that are stored.")
BATCH_STORED: Final = _gauge("penstock_batch_stored_bytes", "Bytes of these files.")

BATCH: Final = (
    BATCHES, BATCH_ENDED, BATCH_REQUESTS, BATCH_IN_FLIGHT, BATCH_WINDOW, BATCH_BACKOFFS,
    BATCH_FILES, BATCH_STORED,
)  # fmt: skip

# --- operator -----------------------------------------------------------------------------------

OPERATOR_RECONCILES: Final = _counter(
    "penstock_operator_reconciles", "Reconciles of an InferenceDeployment, by result.", "result"
)
OPERATOR_RECONCILE_SECONDS: Final = _histogram(
    "penstock_operator_reconcile_seconds", "Duration of a reconcile.", STEP_BUCKETS
)
OPERATOR_QUEUE: Final = _gauge(
    "penstock_operator_queue", "InferenceDeployments that wait to be reconciled."
)
OPERATOR_LEADER: Final = _gauge(
    "penstock_operator_leader", "1 in the replica that acts, 0 in those that stand by."
)
OPERATOR_API_CALLS: Final = _counter(
    "penstock_operator_api_calls",
    "Calls to the API server; code 0 is no answer.",
    "verb",
    "code",
)

OPERATOR: Final = (
    OPERATOR_RECONCILES, OPERATOR_RECONCILE_SECONDS, OPERATOR_QUEUE, OPERATOR_LEADER,
    OPERATOR_API_CALLS,
)  # fmt: skip

# --- autoscaler (in the operator) ---------------------------------------------------------------

_D = ("namespace", "deployment")
AUTOSCALER_ARRIVALS: Final = _gauge(
    "penstock_autoscaler_arrivals_per_second", "λ: requests per second at the gateways.", *_D
)
AUTOSCALER_LEVEL: Final = _gauge(
    "penstock_autoscaler_work", "L = λ·W: replicas busy with what arrives.", *_D, "pool"
)
AUTOSCALER_NEEDED: Final = _gauge(
    "penstock_autoscaler_needed_replicas",
    "Replicas that each resource needs, before guards; the largest binds.",
    *_D,
    "pool",
    "resource",
)
AUTOSCALER_WANTED: Final = _gauge(
    "penstock_autoscaler_wanted_replicas", "Replicas decided on, after guards.", *_D, "pool"
)
AUTOSCALER_DECISIONS: Final = _counter(
    "penstock_autoscaler_decisions", "Decisions about a pool, by direction.", *_D, "pool", "result"
)
AUTOSCALER_HEALTHY: Final = _gauge(
    "penstock_autoscaler_metrics_healthy",
    "1 when the metrics that a shrink rests on are all fresh.",
    *_D,
    "pool",
)
AUTOSCALER_DIFFERENCE: Final = _gauge(
    "penstock_autoscaler_littles_law_difference",
    "|L - λ·W| / L as measured at the gateways; large means that the metrics lie.",
    *_D,
)

AUTOSCALER: Final = (
    AUTOSCALER_ARRIVALS, AUTOSCALER_LEVEL, AUTOSCALER_NEEDED, AUTOSCALER_WANTED,
    AUTOSCALER_DECISIONS, AUTOSCALER_HEALTHY, AUTOSCALER_DIFFERENCE,
)  # fmt: skip

ALL: Final = WORKER + GATEWAY + BATCH + OPERATOR + AUTOSCALER


class Outcome(Enum):
    """How an admitted request ended; every admitted request has exactly one."""

    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"


class Fault(Enum):
    """Why a worker did not serve a request to its end."""

    UNREACHABLE = "unreachable"
    """It does not accept connections."""
    LOST = "lost"
    """It closed the connection, or died."""
    HUNG = "hung"
    """It fell silent."""
    GARBAGE = "garbage"
    """It answered with something that is no answer."""
    FAILED = "failed"
    """It says that it has failed."""
    REFUSED = "refused"
    """It does not take the request now."""
    LEAVING = "leaving"
    """It goes in good order, and asks to continue elsewhere."""


class Prefill(Enum):
    """Where the prompt of a request was computed, if there are prefill workers."""

    HANDED_OVER = "handed_over"
    """By a prefill worker; the decode worker was told where to pull the KV."""
    OFF = "off"
    """Where it is decoded: `spec.disaggregation.mode` is Never."""
    SHORT = "short"
    """Where it is decoded: too few of its tokens are not cached there."""
    SOONER = "sooner"
    """Where it is decoded: that was expected to be sooner."""
    NO_LEASE = "no_lease"
    """By a prefill worker in vain: it had no room to keep the KV."""
    FAILED = "failed"
    """Where it is decoded, after a prefill worker had failed."""
