"""What the autoscaler sees of a pool under a steady load."""

from dataclasses import replace
from typing import Any

from penstock_contract.api import Role
from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.scaling.observation import Observation, PoolView, Traffic
from penstock_operator.scaling.signal import Signal
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec

CURVE = ServiceCurve(a=0.015, b_p=1e-4, b_d=1e-4, c=1e-7, kv_tokens=400_000)
SPEC = ScalingSpec(
    pools=(PoolBounds("default", Role.UNIFIED, minimum=1, maximum=40),),
    ttft=Objective(0.99, 2.0),
    tpot=Objective(0.99, 0.1),
    up_window=0.0,
    max_up=8,
    down_window=180.0,
)


def seen(rate: float, desired: int, **changes: Signal) -> Observation:
    """Return what is seen of `rate` requests per second of 1,000 tokens in and 200 out."""
    decoding = rate * CURVE.decode_work(1000, 200)
    traffic = Traffic(
        arrivals=Signal(rate),
        uncached_tokens=Signal(1000 * rate),
        input_tokens=Signal(1000),
        output_tokens=Signal(200),
        queued_requests=Signal(0),
        queued_tokens=Signal(0),
    )
    view = PoolView(
        desired=desired,
        ready=desired,
        running=Signal(8 * rate),
        waiting_tokens=Signal(0),
        kv_tokens=Signal(9000 * rate),
        waiting=Signal(0),
        decode_share=Signal(decoding),
        curve=CURVE,
    )
    own: dict[str, Any] = {k: v for k, v in changes.items() if hasattr(traffic, k)}
    rest: dict[str, Any] = {k: v for k, v in changes.items() if k not in own}
    return Observation(replace(traffic, **own), {"default": replace(view, **rest)})
