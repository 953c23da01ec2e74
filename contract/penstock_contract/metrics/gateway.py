"""What gateways export, and how they tell requests and workers apart in it."""

from enum import Enum
from typing import Final

from penstock_contract.metrics.declaration import (
    DISPATCH_BUCKETS,
    LATENCY_BUCKETS,
    TTFT_BUCKETS,
    counter,
    gauge,
    histogram,
)

GATEWAY_ARRIVALS: Final = counter(
    "penstock_gateway_arrivals",
    "Requests admitted or queued for a model, but for those of batches: the offered load that the "
    "autoscaler sizes by.",
    "model",
)
GATEWAY_SPARE_ARRIVALS: Final = counter(
    "penstock_gateway_spare_arrivals",
    "Requests of batches admitted where there was room to spare: nothing is sized by them.",
    "model",
)
GATEWAY_SPARE_IN_FLIGHT: Final = gauge(
    "penstock_gateway_spare_in_flight",
    "Requests of batches sent to a worker and not ended.",
    "model",
)
GATEWAY_PROMPT_BYTES: Final = counter(
    "penstock_gateway_prompt_bytes", "Bytes of prompt text that arrived.", "model"
)
GATEWAY_OUTCOMES: Final = counter(
    "penstock_gateway_outcomes",
    "Requests that ended, each with exactly one outcome.",
    "model",
    "outcome",
)
GATEWAY_REFUSALS: Final = counter(
    "penstock_gateway_refusals", "Requests refused before admission, by error code.", "code"
)
GATEWAY_IN_FLIGHT: Final = gauge(
    "penstock_gateway_in_flight",
    "Requests sent to a worker and not ended, but for those of batches.",
    "model",
)
GATEWAY_TTFT: Final = histogram(
    "penstock_gateway_time_to_first_byte_seconds",
    "From arrival to the first body byte from the worker.",
    TTFT_BUCKETS,
    "model",
)
GATEWAY_DURATION: Final = histogram(
    "penstock_gateway_request_duration_seconds",
    "From arrival to the outcome.",
    LATENCY_BUCKETS,
    "model",
)
GATEWAY_OVERHEAD: Final = histogram(
    "penstock_gateway_dispatch_seconds",
    "From the complete request to the first byte sent to a worker.",
    DISPATCH_BUCKETS,
    "model",
)
GATEWAY_WORKERS: Final = gauge(
    "penstock_gateway_workers", "Workers known to the gateway, by state.", "deployment", "state"
)
GATEWAY_RETRIES: Final = counter(
    "penstock_gateway_retries", "Requests sent again before their first byte.", "model"
)
GATEWAY_RETRIES_DENIED: Final = counter(
    "penstock_gateway_retries_denied",
    "Requests that were not sent again because the retry budget was spent.",
    "model",
)
GATEWAY_STARVED: Final = counter(
    "penstock_gateway_starved",
    "Requests that waited because the gateway itself had no file descriptor, port or memory left "
    "for a connection to a worker.",
    "model",
)
GATEWAY_WORKER_FAULTS: Final = counter(
    "penstock_gateway_worker_faults",
    "Requests that a worker did not serve to their end, by cause.",
    "model",
    "cause",
)
GATEWAY_EJECTIONS: Final = counter(
    "penstock_gateway_ejections",
    "Workers put aside for a while because they stream much slower than the rest of their pool.",
    "deployment",
)
GATEWAY_RESUMES: Final = counter(
    "penstock_gateway_resumes",
    "Streams that went on at another worker, by what ended them at the one before.",
    "model",
    "cause",
)
GATEWAY_RESUME_SECONDS: Final = histogram(
    "penstock_gateway_resume_seconds",
    "From the end of a stream at one worker to its first event from the next.",
    TTFT_BUCKETS,
    "model",
)
GATEWAY_PREFILLS: Final = counter(
    "penstock_gateway_prefills",
    "Requests of models with prefill workers, by what became of their prompts.",
    "model",
    "outcome",
)
GATEWAY_PREFIX_PREDICTED: Final = counter(
    "penstock_gateway_prefix_predicted_tokens",
    "Prompt tokens that the chosen worker was expected to have cached, where its answer tells.",
    "model",
)
GATEWAY_PREFIX_CACHED: Final = counter(
    "penstock_gateway_prefix_cached_tokens",
    "Prompt tokens that the chosen worker had cached, by its own account.",
    "model",
)
GATEWAY_PREFIX_RIGHT: Final = counter(
    "penstock_gateway_prefix_right_tokens",
    "Prompt tokens both expected and cached: over the predicted ones this is the prediction's "
    "precision, over the cached ones its recall.",
    "model",
)

GATEWAY_QUEUED: Final = gauge(
    "penstock_gateway_queued", "Requests that wait until a worker has room.", "model"
)
GATEWAY_HELD: Final = gauge(
    "penstock_gateway_held",
    "Requests among those that wait whose workers have enough prompts, by those workers: "
    "workers, prefill, proven, trial.",
    "model",
    "workers",
)
GATEWAY_PROMPT_TOKEN: Final = gauge(
    "penstock_gateway_prompt_token_seconds",
    "Seconds that the fastest worker takes for a prompt token, as it told or by its first tokens; "
    "prompts are held back by it. 0: not known, none are.",
    "model",
)
GATEWAY_QUEUE_SECONDS: Final = histogram(
    "penstock_gateway_queue_seconds",
    "From arrival until a worker had room.",
    LATENCY_BUCKETS,
    "model",
)
GATEWAY_NAME_CONFLICTS: Final = gauge(
    "penstock_gateway_name_conflicts",
    "Served names that more than one InferenceDeployment claims; the oldest one has them.",
)
GATEWAY_FLEET_STALE: Final = gauge(
    "penstock_gateway_fleet_stale",
    "1 while the source of the fleet cannot be followed and the last one known goes on serving.",
)
GATEWAY_PROCESSES: Final = gauge(
    "penstock_gateway_processes",
    "Processes of this gateway (--processes), by whether they answered when this was read: of a "
    "silent one, the counts are its last ones.",
    "state",
)
GATEWAY_BODIES: Final = gauge(
    "penstock_gateway_request_body_bytes", "Bytes of request bodies that the gateway holds."
)
GATEWAY_TENANTS: Final = gauge(
    "penstock_gateway_tenants", "Tenants known to the gateway; with none, nobody needs a key."
)
GATEWAY_TENANT_REQUESTS: Final = counter(
    "penstock_gateway_tenant_requests", "Admitted requests that ended, by tenant.", "tenant"
)
GATEWAY_TENANT_TOKENS: Final = counter(
    "penstock_gateway_tenant_tokens",
    "Tokens of prompts and answers; where an answer says nothing of its usage, estimated.",
    "tenant",
)
GATEWAY_TENANT_REFUSALS: Final = counter(
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
    GATEWAY_HELD, GATEWAY_PROMPT_TOKEN, GATEWAY_QUEUE_SECONDS, GATEWAY_PROCESSES, GATEWAY_BODIES,
    GATEWAY_NAME_CONFLICTS, GATEWAY_FLEET_STALE, GATEWAY_TENANTS, GATEWAY_TENANT_REQUESTS,
    GATEWAY_TENANT_TOKENS, GATEWAY_TENANT_REFUSALS,
)  # fmt: skip


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
