"""What the operator exports."""

from typing import Final

from penstock_contract.metrics.declaration import (
    STEP_BUCKETS,
    counter,
    gauge,
    histogram,
)

OPERATOR_RECONCILES: Final = counter(
    "penstock_operator_reconciles", "Reconciles of an InferenceDeployment, by result.", "result"
)
OPERATOR_RECONCILE_SECONDS: Final = histogram(
    "penstock_operator_reconcile_seconds", "Duration of a reconcile.", STEP_BUCKETS
)
OPERATOR_QUEUE: Final = gauge(
    "penstock_operator_queue", "InferenceDeployments that wait to be reconciled."
)
OPERATOR_LEADER: Final = gauge(
    "penstock_operator_leader", "1 in the replica that acts, 0 in those that stand by."
)
OPERATOR_API_CALLS: Final = counter(
    "penstock_operator_api_calls",
    "Calls to the API server; code 0 is no answer.",
    "verb",
    "code",
)

OPERATOR: Final = (
    OPERATOR_RECONCILES, OPERATOR_RECONCILE_SECONDS, OPERATOR_QUEUE, OPERATOR_LEADER,
    OPERATOR_API_CALLS,
)  # fmt: skip
