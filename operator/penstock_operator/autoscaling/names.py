"""Which series are read, under every name that they have had. Pure.

The first name that a worker exports is taken. A worker that exports none of the names of `NEEDED`
is told to the user: its pool is held, not guessed.
"""

from typing import Final

from penstock_contract import metrics as m
from penstock_contract.metrics import Kind, Metric


def _names(metric: Metric, suffix: str = "") -> tuple[str, ...]:
    old = m.OLD_NAMES.get(metric)
    found = [metric, *([old] if old else [])]
    return tuple(each.exported_name + suffix for each in found)


RUNNING: Final = _names(m.VLLM_RUNNING)
WAITING: Final = _names(m.VLLM_WAITING)
KV_USAGE: Final = _names(m.VLLM_KV_USAGE)
CACHE_CONFIG: Final = m.VLLM_CACHE_CONFIG.name
PROMPT_SUM: Final = _names(m.VLLM_REQUEST_PROMPT_TOKENS, "_sum")
PROMPT_COUNT: Final = _names(m.VLLM_REQUEST_PROMPT_TOKENS, "_count")
OUTPUT_SUM: Final = _names(m.VLLM_REQUEST_GENERATION_TOKENS, "_sum")
OUTPUT_COUNT: Final = _names(m.VLLM_REQUEST_GENERATION_TOKENS, "_count")
COMPUTED_SUM: Final = _names(m.VLLM_COMPUTED_PROMPT_TOKENS, "_sum")
COMPUTED_COUNT: Final = _names(m.VLLM_COMPUTED_PROMPT_TOKENS, "_count")
TTFT: Final = m.VLLM_TTFT.name
TPOT: Final = m.VLLM_TPOT.name
ITL_SUM: Final = _names(m.VLLM_ITL, "_sum")
ITL_COUNT: Final = _names(m.VLLM_ITL, "_count")
STEPS: Final = _names(m.VLLM_STEP_TOKENS, "_count")
STEP_TOKENS: Final = _names(m.VLLM_STEP_TOKENS, "_sum")
GENERATED: Final = _names(m.VLLM_GENERATION_TOKENS)
OWN_STEP_SUM: Final = _names(m.WORKER_STEP_SECONDS, "_sum")
OWN_STEP_COUNT: Final = _names(m.WORKER_STEP_SECONDS, "_count")
OWN_STEP_TOKENS: Final = m.WORKER_STEP_TOKENS.exported_name
OWN_STEP_CONTEXT: Final = _names(m.WORKER_STEP_CONTEXT)
MOMENTS: Final = m.WORKER_STEP_MOMENTS.exported_name
STEP_COST: Final = m.WORKER_STEP_COST.name
LOAD_SECONDS: Final = _names(m.WORKER_LOAD_SECONDS)

ARRIVALS: Final = _names(m.GATEWAY_ARRIVALS)
QUEUED: Final = _names(m.GATEWAY_QUEUED)
IN_FLIGHT: Final = _names(m.GATEWAY_IN_FLIGHT)
SPARE_IN_FLIGHT: Final = _names(m.GATEWAY_SPARE_IN_FLIGHT)
DURATION_SUM: Final = _names(m.GATEWAY_DURATION, "_sum")
DURATION_COUNT: Final = _names(m.GATEWAY_DURATION, "_count")
QUEUE_SECONDS: Final = m.GATEWAY_QUEUE_SECONDS.name

NEEDED: Final = (RUNNING, WAITING, KV_USAGE)
"""What every worker must export under some name."""

_WORKER = (
    m.VLLM_RUNNING, m.VLLM_WAITING, m.VLLM_KV_USAGE, m.VLLM_OLD_KV_USAGE, m.VLLM_CACHE_CONFIG,
    m.VLLM_REQUEST_PROMPT_TOKENS, m.VLLM_REQUEST_GENERATION_TOKENS, m.VLLM_COMPUTED_PROMPT_TOKENS,
    m.VLLM_TTFT, m.VLLM_TPOT, m.VLLM_ITL, m.VLLM_OLD_ITL, m.VLLM_STEP_TOKENS,
    m.VLLM_GENERATION_TOKENS, m.WORKER_STEP_SECONDS, m.WORKER_STEP_TOKENS, m.WORKER_STEP_CONTEXT,
    m.WORKER_STEP_MOMENTS, m.WORKER_STEP_COST, m.WORKER_LOAD_SECONDS,
)  # fmt: skip
_GATEWAY = (
    m.GATEWAY_ARRIVALS, m.GATEWAY_QUEUED, m.GATEWAY_IN_FLIGHT, m.GATEWAY_SPARE_IN_FLIGHT,
    m.GATEWAY_DURATION, m.GATEWAY_QUEUE_SECONDS,
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
