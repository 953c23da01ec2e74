"""Conditions of an InferenceDeployment: which types there are, and every reason each can give.

Scripts and alerts match on these words, so they are part of the contract: a reason may be added,
never renamed. The reference page is generated from this file.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ConditionType(StrEnum):
    """Which aspect of the state a condition tells about."""

    READY = "Ready"
    MODEL_RESOLVED = "ModelResolved"
    POOLS_READY = "PoolsReady"
    ROUTER_READY = "RouterReady"
    ROLLOUT_COMPLETE = "RolloutComplete"
    SCALING_ACTIVE = "ScalingActive"
    ADAPTERS_READY = "AdaptersReady"


class Reason(StrEnum):
    """Why a condition has its status."""

    SERVING = "Serving"
    MODEL_NOT_RESOLVED = "ModelNotResolved"
    NO_READY_WORKERS = "NoReadyWorkers"
    SCALED_TO_ZERO = "ScaledToZero"
    ROUTER_NOT_READY = "RouterNotReady"

    RESOLVED = "Resolved"
    UNSUPPORTED_SOURCE = "UnsupportedSource"
    MODEL_NOT_FOUND = "ModelNotFound"

    AS_DESIRED = "AsDesired"
    UNSUPPORTED_SPEC = "UnsupportedSpec"
    INVALID_SPEC = "InvalidSpec"
    NAME_TAKEN = "NameTaken"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    PODS_FAILING = "PodsFailing"
    PODS_NOT_READY = "PodsNotReady"
    UPDATING = "Updating"

    ROUTER_SERVING = "RouterServing"

    COMPLETE = "Complete"
    IN_PROGRESS = "InProgress"
    CANARY = "Canary"
    STALLED = "Stalled"
    ROLLED_BACK = "RolledBack"

    SCALING = "Scaling"
    LEARNING = "Learning"
    METRICS_STALE = "MetricsStale"
    BUDGET_LIMITED = "BudgetLimited"
    OBJECTIVE_INFEASIBLE = "ObjectiveInfeasible"
    SCALED_BY_ANOTHER = "ScaledByAnother"

    ADAPTERS_LOADED = "AdaptersLoaded"
    ADAPTERS_LOADING = "AdaptersLoading"
    ADAPTER_FAILED = "AdapterFailed"


@dataclass(frozen=True)
class Declared:
    """A condition type, its meaning when True, and the reasons it can give."""

    type: ConditionType
    meaning: str
    reasons: tuple[Reason, ...]


CONDITIONS: Final = (
    Declared(
        ConditionType.READY,
        "At least one worker that can answer requests has generated a token, and the gateway "
        "reaches it.",
        (
            Reason.SERVING,
            Reason.MODEL_NOT_RESOLVED,
            Reason.UNSUPPORTED_SPEC,
            Reason.INVALID_SPEC,
            Reason.NO_READY_WORKERS,
            Reason.SCALED_TO_ZERO,
            Reason.ROUTER_NOT_READY,
            Reason.NAME_TAKEN,
        ),
    ),
    Declared(
        ConditionType.MODEL_RESOLVED,
        "The model's source is known and can be read.",
        (Reason.RESOLVED, Reason.UNSUPPORTED_SOURCE, Reason.MODEL_NOT_FOUND),
    ),
    Declared(
        ConditionType.POOLS_READY,
        "Every pool has the workers it should have, of the current revision.",
        (
            Reason.AS_DESIRED,
            Reason.UNSUPPORTED_SPEC,
            Reason.INVALID_SPEC,
            Reason.NAME_TAKEN,
            Reason.INSUFFICIENT_CAPACITY,
            Reason.PODS_FAILING,
            Reason.PODS_NOT_READY,
            Reason.UPDATING,
        ),
    ),
    Declared(
        ConditionType.ROUTER_READY,
        "A gateway answers, and passes requests for one of the served names on to this deployment.",
        (Reason.ROUTER_SERVING, Reason.ROUTER_NOT_READY, Reason.NAME_TAKEN),
    ),
    Declared(
        ConditionType.ROLLOUT_COMPLETE,
        "No worker of an older revision is left, and the new ones serve.",
        (
            Reason.COMPLETE,
            Reason.IN_PROGRESS,
            Reason.CANARY,
            Reason.STALLED,
            Reason.ROLLED_BACK,
            Reason.UNSUPPORTED_SPEC,
            Reason.INVALID_SPEC,
        ),
    ),
    Declared(
        ConditionType.SCALING_ACTIVE,
        "The autoscaler sizes the pools that have `scaling`; absent where there is none.",
        (
            Reason.SCALING,
            Reason.LEARNING,
            Reason.METRICS_STALE,
            Reason.BUDGET_LIMITED,
            Reason.OBJECTIVE_INFEASIBLE,
            Reason.SCALED_BY_ANOTHER,
        ),
    ),
    Declared(
        ConditionType.ADAPTERS_READY,
        "Every worker that serves has every adapter of `spec.model.adapters`; absent where there "
        "are none. `status.adapters` tells of each.",
        (Reason.ADAPTERS_LOADED, Reason.ADAPTERS_LOADING, Reason.ADAPTER_FAILED),
    ),
)
