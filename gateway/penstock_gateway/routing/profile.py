"""What a worker's own metrics say of it: how fast it is, and how much KV it has room for. Pure."""

import re
from typing import Final, NamedTuple

from penstock_contract.metrics import worker as declared
from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.speed import Speed

_COST: Final = re.compile(
    rf"^{declared.WORKER_STEP_COST.name}\{{[^}}]*\bterm=\"(\w+)\"[^}}]*\}} (\S+)$", re.MULTILINE
)
_CACHE: Final = re.compile(rf"^{declared.VLLM_CACHE_CONFIG.name}\{{([^}}]*)\}}", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="(\d{1,12})"')


class Profile(NamedTuple):
    """A worker by its own account."""

    speed: Speed | None = None
    """None where the worker does not tell what prompts cost."""
    kv_tokens: int | None = None
    cost: StepCost | None = None
    """What `speed` is made of; None likewise."""


def profile(text: str) -> Profile:
    """Return what a scrape tells; nothing of it is taken for granted."""
    cost = _cost(text)
    return Profile(Speed.of(cost) if cost else None, _kv_tokens(text), cost)


def _cost(text: str) -> StepCost | None:
    found = {"step": 0.0, "prefill_token": 0.0, "sequence": 0.0, "kv_token": 0.0}
    for term, value in _COST.findall(text):
        seconds = _number(value)
        if term in found and 0.0 < seconds < 60.0:
            found[term] = seconds
    return StepCost(**found) if found["prefill_token"] else None


def _kv_tokens(text: str) -> int | None:
    """Return the tokens of KV of all engines of a worker together."""
    total = 0
    for labels in _CACHE.findall(text):
        numbers = dict(_LABEL.findall(labels))
        total += int(numbers.get("block_size", 0)) * int(numbers.get("num_gpu_blocks", 0))
    return total or None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
