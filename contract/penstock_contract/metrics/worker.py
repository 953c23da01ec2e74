"""What workers export: vLLM's names where it has one, and Penstock's own."""

from typing import Final

from penstock_contract.metrics.declaration import (
    ITL_BUCKETS,
    LATENCY_BUCKETS,
    STEP_BUCKETS,
    STEP_TOKEN_BUCKETS,
    TOKEN_BUCKETS,
    TTFT_BUCKETS,
    counter,
    gauge,
    histogram,
)

_M = "model_name"
_V: Final = (_M, "engine")
"""vLLM's labels; `engine` is the data-parallel rank, here always 0."""
VLLM_RUNNING: Final = gauge("vllm:num_requests_running", "Requests in the running queue.", *_V)
VLLM_WAITING: Final = gauge("vllm:num_requests_waiting", "Requests in the waiting queue.", *_V)
VLLM_KV_USAGE: Final = gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", *_V)
VLLM_PREFIX_QUERIES: Final = counter(
    "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", *_V
)
VLLM_PREFIX_HITS: Final = counter(
    "vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", *_V
)
VLLM_PREEMPTIONS: Final = counter(
    "vllm:num_preemptions", "Requests that lost their KV blocks and are computed again.", *_V
)
VLLM_SPEC_DRAFTS: Final = counter(
    "vllm:spec_decode_num_drafts", "Times that draft tokens were proposed.", *_V
)
VLLM_SPEC_DRAFT_TOKENS: Final = counter(
    "vllm:spec_decode_num_draft_tokens", "Draft tokens proposed and computed.", *_V
)
VLLM_SPEC_ACCEPTED: Final = counter(
    "vllm:spec_decode_num_accepted_tokens", "Draft tokens that were right.", *_V
)
VLLM_SPEC_ACCEPTED_PER_POS: Final = counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos",
    "Draft tokens that were right, by their place in the draft.",
    *_V,
    "position",
)
VLLM_PROMPT_TOKENS: Final = counter("vllm:prompt_tokens", "Prompt tokens processed.", *_V)
VLLM_GENERATION_TOKENS: Final = counter("vllm:generation_tokens", "Tokens generated.", *_V)
VLLM_REQUEST_SUCCESS: Final = counter(
    "vllm:request_success", "Requests that ended, by reason.", *_V, "finished_reason"
)
VLLM_TTFT: Final = histogram(
    "vllm:time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS, *_V
)
VLLM_ITL: Final = histogram(
    "vllm:inter_token_latency_seconds", "Time between output tokens.", ITL_BUCKETS, *_V
)
VLLM_TPOT: Final = histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean time per output token of a request, after its first.",
    ITL_BUCKETS,
    *_V,
)
VLLM_E2E: Final = histogram(
    "vllm:e2e_request_latency_seconds", "Time from arrival to last token.", LATENCY_BUCKETS, *_V
)
VLLM_QUEUE_TIME: Final = histogram(
    "vllm:request_queue_time_seconds", "Time in the waiting queue.", LATENCY_BUCKETS, *_V
)
VLLM_REQUEST_PROMPT_TOKENS: Final = histogram(
    "vllm:request_prompt_tokens", "Prompt tokens of a request.", TOKEN_BUCKETS, *_V
)
VLLM_REQUEST_GENERATION_TOKENS: Final = histogram(
    "vllm:request_generation_tokens", "Generated tokens of a request.", TOKEN_BUCKETS, *_V
)
VLLM_CACHED_TOKENS: Final = counter(
    "vllm:prompt_tokens_cached", "Prompt tokens that were not computed: they were cached.", *_V
)
VLLM_STEP_TOKENS: Final = histogram(
    "vllm:iteration_tokens_total", "Tokens computed in an engine step.", STEP_TOKEN_BUCKETS, *_V
)
VLLM_PREFILL_TIME: Final = histogram(
    "vllm:request_prefill_time_seconds",
    "Time from the first step to the first token.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_DECODE_TIME: Final = histogram(
    "vllm:request_decode_time_seconds",
    "Time from the first token to the last.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_INFERENCE_TIME: Final = histogram(
    "vllm:request_inference_time_seconds",
    "Time from the first step to the last token.",
    LATENCY_BUCKETS,
    *_V,
)
VLLM_COMPUTED_PROMPT_TOKENS: Final = histogram(
    "vllm:request_prefill_kv_computed_tokens",
    "Prompt tokens of a request that were computed.",
    TOKEN_BUCKETS,
    *_V,
)
VLLM_CACHE_CONFIG: Final = gauge(
    "vllm:cache_config_info",
    "1; its labels tell the KV cache's shape.",
    "engine",
    "block_size",
    "num_gpu_blocks",
    "enable_prefix_caching",
    "cache_dtype",
)

# Names that vLLM has given up and dashboards still ask for; each repeats its successor.
VLLM_OLD_KV_USAGE: Final = gauge(
    "vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc.", *_V
)
VLLM_OLD_PREFIX_QUERIES: Final = counter(
    "vllm:gpu_prefix_cache_queries", "Old name of vllm:prefix_cache_queries.", *_V
)
VLLM_OLD_PREFIX_HITS: Final = counter(
    "vllm:gpu_prefix_cache_hits", "Old name of vllm:prefix_cache_hits.", *_V
)
VLLM_OLD_ITL: Final = histogram(
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

WORKER_BLOCKS: Final = gauge(
    "penstock_worker_kv_blocks", "KV blocks by state; the states add up to the pool.", _M, "state"
)
WORKER_STEP_SECONDS: Final = histogram(
    "penstock_worker_step_seconds", "Duration of an engine step.", STEP_BUCKETS, _M
)
WORKER_STEP_TOKENS: Final = counter(
    "penstock_worker_step_tokens", "Tokens computed in engine steps, by kind.", _M, "kind"
)
WORKER_STEP_CONTEXT: Final = counter(
    "penstock_worker_step_context_tokens", "Tokens of context that engine steps have read.", _M
)
WORKER_STEP_MOMENTS: Final = counter(
    "penstock_worker_step_moments",
    "Sums over engine steps of products of what they computed and took, each over its seconds "
    "squared: increases over a window are the normal equations of the step's cost in relative "
    "errors (penstock_contract.step_cost).",
    _M,
    "product",
)
WORKER_STEP_COST: Final = gauge(
    "penstock_worker_step_cost_seconds",
    "What a step, a prompt token, a decoding sequence and a token of context cost, as measured "
    "when the worker started.",
    _M,
    "term",
)
WORKER_BOUNDED_STEPS: Final = counter(
    "penstock_worker_bounded_steps",
    "Engine steps whose prompts were cut so that requests that decode keep their TPOT objective.",
    _M,
)
WORKER_IGNORED_FIELDS: Final = counter(
    "penstock_worker_ignored_fields", "Fields of requests that are unknown and were ignored.", _M
)
WORKER_DRAINING: Final = gauge(
    "penstock_worker_draining", "1 while the worker refuses new requests and finishes its own.", _M
)
WORKER_LOAD_SECONDS: Final = gauge(
    "penstock_worker_load_seconds", "Time from process start until ready to serve.", _M
)
WORKER_KV_PULLS: Final = counter(
    "penstock_worker_kv_pulls",
    "Prompts whose KV this worker was to pull from another one, by outcome.",
    _M,
    "outcome",
)
WORKER_KV_PULLED_BYTES: Final = counter(
    "penstock_worker_kv_pulled_bytes", "KV pulled from other workers and found to be right.", _M
)
WORKER_KV_PULL_SECONDS: Final = counter(
    "penstock_worker_kv_pull_seconds", "Time that requests waited for KV of other workers.", _M
)
WORKER_KV_LEASES: Final = counter(
    "penstock_worker_kv_leases",
    "Leases on KV for other workers that ended, by outcome.",
    _M,
    "outcome",
)
WORKER_KV_LEASED_BLOCKS: Final = gauge(
    "penstock_worker_kv_leased_blocks", "KV blocks that are kept for other workers.", _M
)
WORKER_TIER_QUERIES: Final = counter(
    "penstock_worker_kv_tier_queries",
    "Prompt tokens that the prefix cache did not have, looked up in a slower tier.",
    _M,
    "medium",
)
WORKER_TIER_HITS: Final = counter(
    "penstock_worker_kv_tier_hits",
    "Of them, those whose KV was loaded; they are hits of the prefix cache, too.",
    _M,
    "medium",
)
WORKER_TIER_LOADS: Final = counter(
    "penstock_worker_kv_tier_loads",
    "Prompts of which a slower tier had blocks, by what became of it.",
    _M,
    "medium",
    "outcome",
)
WORKER_TIER_LOADED_BYTES: Final = counter(
    "penstock_worker_kv_tier_loaded_bytes", "KV loaded from a slower tier.", _M, "medium"
)
WORKER_TIER_LOAD_SECONDS: Final = counter(
    "penstock_worker_kv_tier_load_seconds", "Time that these loads took.", _M, "medium"
)
WORKER_TIER_STORED_BYTES: Final = counter(
    "penstock_worker_kv_tier_stored_bytes", "KV written to a slower tier.", _M, "medium"
)
WORKER_TIER_SKIPPED: Final = counter(
    "penstock_worker_kv_tier_skipped_blocks",
    "Blocks that left the prefix cache and were not kept, by reason.",
    _M,
    "medium",
    "reason",
)
WORKER_TIER_CORRUPT: Final = counter(
    "penstock_worker_kv_tier_corrupt_blocks",
    "Blocks found damaged in a slower tier: removed, and computed instead.",
    _M,
    "medium",
)
WORKER_TIER_USED: Final = gauge(
    "penstock_worker_kv_tier_used_bytes", "What blocks take of a slower tier.", _M, "medium"
)
WORKER_TIER_CAPACITY: Final = gauge(
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
