"""A tenant as the gateway knows it, and what it may ask for. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Final

from penstock_contract.api.tenant import Limits, TenantSpec
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue

SHARED_SALT: Final = "shared"
"""Of tenants without isolation: a salt of its own, so that none of them can take on another's by
sending it as `cache_salt`, which the worker only ever mixes with this one."""

NO_LIMITS: Final = Limits()
SPARE: Final = FleetClass(name="batch", priority=-10)
"""Of batches, where a model has no class that may be shed."""


@dataclass(frozen=True)
class Tenant:
    """A caller, or a group of callers with the same rights."""

    id: str
    """Its name; unique."""
    models: frozenset[str] = frozenset()
    """Served names; none means all."""
    classes: frozenset[str] | None = frozenset()
    """Request classes it may ask for; none means the default class only, None means all."""
    weight: int = 1
    limits: Limits = NO_LIMITS
    salt: str = ""
    """Sent to workers, which share cached prefixes only between equal salts."""
    debug: bool = False

    @classmethod
    def of(cls, tenant_id: str, spec: TenantSpec) -> "Tenant":
        """Return the tenant that a spec describes."""
        return cls(
            tenant_id,
            frozenset(spec.models),
            frozenset(spec.request_classes),
            spec.weight,
            spec.limits,
            _salt(tenant_id) if spec.cache_isolation else SHARED_SALT,
            spec.debug,
        )

    def may_use(self, name: str, model: FleetModel) -> bool:
        """Return whether a model may be asked for by a name: itself allowed, or the main one.

        An adapter is a model of its own: whoever may use its base model may not use it for that.
        """
        main = name if name in model.adapters else model.name
        return not self.models or name in self.models or main in self.models

    def request_class(self, queue: FleetQueue, wanted: str) -> FleetClass:
        """Return the class of a request, as the share of this tenant in it.

        Args:
            queue: of the model.
            wanted: the class that the request names; a name that the model has not means none.

        Raises:
            ApiError: the class is not open to this tenant.
        """
        return self._share(self._class(queue, wanted))

    def spare_class(self, queue: FleetQueue) -> FleetClass:
        """Return the class of a batch's requests: the least of the model's that may be shed."""
        least = min(queue.classes, key=lambda found: found.priority, default=SPARE)
        return self._share(least if least.priority < 0 else SPARE)

    def _share(self, found: FleetClass) -> FleetClass:
        if not self.id:
            return found
        share, weight = f"{found.name}/{self.id}", found.weight * self.weight
        return found.model_copy(update={"name": share, "weight": weight})

    def _class(self, queue: FleetQueue, wanted: str) -> FleetClass:
        if self.classes is None:
            return queue.request_class(wanted)
        named = [found for found in queue.classes if found.name == wanted]
        allowed = [found for found in queue.classes if found.name in self.classes]
        allowed = allowed or [queue.default]
        if not named:
            return _clamped(queue.default, allowed)
        if named[0] not in allowed:
            names = ", ".join(found.name or "none" for found in allowed)
            raise ApiError(
                ErrorCode.PERMISSION_DENIED,
                f"The request class {wanted!r} is not open to this API key; open to it: {names}.",
                param="service_tier",
            )
        return named[0]


ANYONE: Final = Tenant("", classes=None, debug=True)
"""Whoever calls a gateway that knows no tenants."""


def _clamped(default: FleetClass, allowed: list[FleetClass]) -> FleetClass:
    """Return the best allowed class that is no better than the default, else the least one."""
    if default in allowed:
        return default
    below = [found for found in allowed if found.priority <= default.priority]
    if below:
        return max(below, key=lambda found: found.priority)
    return min(allowed, key=lambda found: found.priority)


def _salt(tenant_id: str) -> str:
    """Return what is stable over restarts and key rotations, and differs between tenants."""
    return hashlib.blake2b(
        tenant_id.encode(), digest_size=16, person=b"penstock-tenant"
    ).hexdigest()
