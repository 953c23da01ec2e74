"""Who has a served name that several InferenceDeployments ask for: the oldest of them. Pure.

Gateways route by this rule and the operator tells users what came of it, so both have it from here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Asked:
    """The names that an InferenceDeployment asks for."""

    deployment: str
    """`namespace/name`: a name alone is not unique in a cluster."""
    names: tuple[str, ...]
    """Of its model, the main one first."""
    created: int
    """Unix seconds."""
    adapters: tuple[str, ...] = ()
    """Of its LoRA adapters."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every name once, the model's first."""
        return tuple(dict.fromkeys((*self.names, *self.adapters)))


def asked(found: Mapping[str, Any]) -> Asked:
    """Return what an InferenceDeployment as stored asks for."""
    meta, model = found["metadata"], found.get("spec", {}).get("model", {})
    names = [model.get("name") or meta["name"], *model.get("aliases", [])]
    return Asked(
        deployment=f"{meta['namespace']}/{meta['name']}",
        names=tuple(dict.fromkeys(names)),
        created=int(datetime.fromisoformat(meta["creationTimestamp"]).timestamp()),
        adapters=tuple(dict.fromkeys(adapter["name"] for adapter in model.get("adapters", []))),
    )


def by_age(one: Asked) -> tuple[int, str]:
    """Return what InferenceDeployments are sorted by before they choose, one after the other."""
    return (one.created, one.deployment)


def holders(everyone: Iterable[Asked]) -> dict[str, str]:
    """Return which InferenceDeployment has each name.

    One that is left without a name for its model gets none for its adapters either.
    """
    held: dict[str, str] = {}
    for one in sorted(everyone, key=by_age):
        free = [name for name in one.all if name not in held]
        if any(name in one.names for name in free):
            held |= dict.fromkeys(free, one.deployment)
    return held
