"""Which series are read, under every name that they have had. Pure.

The first name that a worker exports is taken. A worker that exports none of the names of `NEEDED`
is told to the user: its pool is held, not guessed.
"""

from typing import Final

from penstock_contract.metrics import Kind, Metric
from penstock_contract.metrics import gateway as g
from penstock_contract.metrics import worker as w


def _names(metric: Metric, suffix: str = "") -> tuple[str, ...]:
    old = w.OLD_NAMES.get(metric)
    found = [metric, *([old] if old else [])]
    return tuple(each.exported_name + suffix for each in found)


RUNNING: Final = _names(w.VLLM_RUNNING)
WAITING: Final = _names(w.VLLM_WAITING)
KV_USAGE: Final = _names(w.VLLM_KV_USAGE)
CACHE_CONFIG: Final = w.VLLM_CACHE_CONFIG.name
PROMPT_SUM: Final = _names(w.VLLM_REQUEST_PROMPT_TOKENS, "_sum")
PROMPT_COUNT: Final = _names(w.VLLM_REQUEST_PROMPT_TOKENS, "_count")
OUTPUT_SUM: Final = _names(w.VLLM_REQUEST_GENERATION_TOKENS, "_sum")
OUTPUT_COUNT: Final = _names(w.VLLM_REQUEST_GENERATION_TOKENS, "_count")
COMPUTED_SUM: Final = _names(w.VLLM_COMPUTED_PROMPT_TOKENS, "_sum")
COMPUTED_COUNT: Final = _names(w.VLLM_COMPUTED_PROMPT_TOKENS, "_count")
TTFT: Final = w.VLLM_TTFT.name
TPOT: Final = w.VLLM_TPOT.name
ITL_SUM: Final = _names(w.VLLM_ITL, "_sum")
ITL_COUNT: Final = _names(w.VLLM_ITL, "_count")
PREFILL_SUM: Final = _names(w.VLLM_PREFILL_TIME, "_sum")
PREFILL_COUNT: Final = _names(w.VLLM_PREFILL_TIME, "_count")
STEPS: Final = _names(w.VLLM_STEP_TOKENS, "_count")
STEP_TOKENS: Final = _names(w.VLLM_STEP_TOKENS, "_sum")
GENERATED: Final = _names(w.VLLM_GENERATION_TOKENS)
OWN_STEP_SUM: Final = _names(w.WORKER_STEP_SECONDS, "_sum")
OWN_STEP_COUNT: Final = _names(w.WORKER_STEP_SECONDS, "_count")
OWN_STEP_TOKENS: Final = w.WORKER_STEP_TOKENS.exported_name
OWN_STEP_CONTEXT: Final = _names(w.WORKER_STEP_CONTEXT)
MOMENTS: Final = w.WORKER_STEP_MOMENTS.exported_name
STEP_COST: Final = w.WORKER_STEP_COST.name
LOAD_SECONDS: Final = _names(w.WORKER_LOAD_SECONDS)

ARRIVALS: Final = _names(g.GATEWAY_ARRIVALS)
QUEUED: Final = _names(g.GATEWAY_QUEUED)
IN_FLIGHT: Final = _names(g.GATEWAY_IN_FLIGHT)
SPARE_IN_FLIGHT: Final = _names(g.GATEWAY_SPARE_IN_FLIGHT)
DURATION_SUM: Final = _names(g.GATEWAY_DURATION, "_sum")
DURATION_COUNT: Final = _names(g.GATEWAY_DURATION, "_count")
QUEUE_SECONDS: Final = g.GATEWAY_QUEUE_SECONDS.name

NEEDED: Final = (RUNNING, WAITING, KV_USAGE)
"""What every worker must export under some name."""

_WORKER = (
    w.VLLM_RUNNING, w.VLLM_WAITING, w.VLLM_KV_USAGE, w.VLLM_OLD_KV_USAGE, w.VLLM_CACHE_CONFIG,
    w.VLLM_REQUEST_PROMPT_TOKENS, w.VLLM_REQUEST_GENERATION_TOKENS, w.VLLM_COMPUTED_PROMPT_TOKENS,
    w.VLLM_TTFT, w.VLLM_TPOT, w.VLLM_ITL, w.VLLM_OLD_ITL, w.VLLM_PREFILL_TIME,
    w.VLLM_STEP_TOKENS, w.VLLM_GENERATION_TOKENS, w.WORKER_STEP_SECONDS, w.WORKER_STEP_TOKENS,
    w.WORKER_STEP_CONTEXT, w.WORKER_STEP_MOMENTS, w.WORKER_STEP_COST, w.WORKER_LOAD_SECONDS,
)  # fmt: skip
_GATEWAY = (
    g.GATEWAY_ARRIVALS, g.GATEWAY_QUEUED, g.GATEWAY_IN_FLIGHT, g.GATEWAY_SPARE_IN_FLIGHT,
    g.GATEWAY_DURATION, g.GATEWAY_QUEUE_SECONDS,
)  # fmt: skip


WORKER_FAMILIES: Final = frozenset(metric.name for metric in _WORKER)
GATEWAY_FAMILIES: Final = frozenset(metric.name for metric in _GATEWAY)


def series_of(families: frozenset[str]) -> list[str]:
    """Return every series name of these families, for a query."""
    found: list[str] = []
    for metric in (*_WORKER, *_GATEWAY):
        if metric.name in families:
            if metric.kind is Kind.HISTOGRAM:
                found += [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
            else:
                found.append(metric.exported_name)
    return found
