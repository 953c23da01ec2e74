"""What the autoscaler, which is part of the operator, exports of its decisions."""

from typing import Final

from penstock_contract.metrics.declaration import (
    counter,
    gauge,
)

_D = ("namespace", "deployment")
AUTOSCALER_ARRIVALS: Final = gauge(
    "penstock_autoscaler_arrivals_per_second", "λ: requests per second at the gateways.", *_D
)
AUTOSCALER_LEVEL: Final = gauge(
    "penstock_autoscaler_work", "L = λ·W: replicas busy with what arrives.", *_D, "pool"
)
AUTOSCALER_NEEDED: Final = gauge(
    "penstock_autoscaler_needed_replicas",
    "Replicas that each resource needs, before guards; the largest binds.",
    *_D,
    "pool",
    "resource",
)
AUTOSCALER_WANTED: Final = gauge(
    "penstock_autoscaler_wanted_replicas", "Replicas decided on, after guards.", *_D, "pool"
)
AUTOSCALER_BOUNDS: Final = gauge(
    "penstock_autoscaler_bound_replicas",
    "Bounds of a pool as its schedules have them now; bound is min or max.",
    *_D,
    "pool",
    "bound",
)
AUTOSCALER_DECISIONS: Final = counter(
    "penstock_autoscaler_decisions", "Decisions about a pool, by direction.", *_D, "pool", "result"
)
AUTOSCALER_HEALTHY: Final = gauge(
    "penstock_autoscaler_metrics_healthy",
    "1 when the metrics that a shrink rests on are all fresh.",
    *_D,
    "pool",
)
AUTOSCALER_DIFFERENCE: Final = gauge(
    "penstock_autoscaler_littles_law_difference",
    "|L - λ·W| / L as measured at the gateways; large means that the metrics lie.",
    *_D,
)

AUTOSCALER: Final = (
    AUTOSCALER_ARRIVALS, AUTOSCALER_LEVEL, AUTOSCALER_NEEDED, AUTOSCALER_WANTED,
    AUTOSCALER_BOUNDS, AUTOSCALER_DECISIONS, AUTOSCALER_HEALTHY, AUTOSCALER_DIFFERENCE,
)  # fmt: skip
