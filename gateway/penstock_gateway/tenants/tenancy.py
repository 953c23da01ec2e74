"""Who is calling, and what each tenant has used: settled before anything of a request is read."""

import logging
from collections.abc import Callable

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.tenants.meter import Meter
from penstock_gateway.tenants.registry import TenantRegistry
from penstock_gateway.tenants.tenant import ANYONE, Tenant
from penstock_gateway.tenants.tenant_request import TenantRequest

log = logging.getLogger("penstock.gateway.tenants")

NOT_KNOWN_RETRY_AFTER = 1.0
"""Seconds; a gateway that has just started reads its tenants."""
LONGEST_KEY = 512
"""Characters; longer ones are not even hashed."""


class UnknownKey(ApiError):
    """The caller has no key, or none that is known.

    Args:
        message: for a person.
        challenge: how a key is sent here, as HTTP says it.
    """

    def __init__(self, message: str, challenge: str = "Bearer") -> None:
        super().__init__(ErrorCode.INVALID_API_KEY, message)
        self._challenge = challenge

    def headers(self) -> dict[str, str]:
        """Return the challenge that a 401 must have."""
        return {"www-authenticate": self._challenge}


class Tenancy:
    """Knows the tenants and what they use.

    Args:
        clock: monotonic seconds.
        keys_required: let nobody in without a key, even when there is no tenant.
    """

    def __init__(self, clock: Callable[[], float], *, keys_required: bool = False) -> None:
        self.known = False
        """Whether the tenants have been read; until then nobody is let in."""
        self._clock = clock
        self._keys_required = keys_required
        self._registry = TenantRegistry()
        self._meters: dict[str, Meter] = {}
        self._unlimited = Meter()
        self._told = ""

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """All tenants."""
        return self._registry.tenants

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._registry.is_empty and not self._keys_required

    def change(self, registry: TenantRegistry) -> None:
        """Take over a new snapshot; requests under way go on."""
        for problem in registry.problems:
            if problem not in self._registry.problems:
                log.warning("%s", problem)
        self._registry, self.known = registry, True
        now = self._clock()
        for tenant in registry.tenants:
            self._meters.setdefault(tenant.id, Meter()).limit(tenant.limits, now)
        for gone in self._meters.keys() - {tenant.id for tenant in registry.tenants}:
            del self._meters[gone]
        self._tell()

    def identify(self, key: str) -> Tenant:
        """Return who is calling; in constant time, whatever there is to look up.

        Args:
            key: as the caller sent it; empty for none.

        Raises:
            ApiError: the key is not known.
        """
        if not self.known:
            raise _not_known()
        if self.is_open:
            return ANYONE
        if not key:
            why = "This endpoint needs an API key: send it as `Authorization: Bearer KEY`."
            raise UnknownKey(why)
        found = self._registry.find(key) if len(key) <= LONGEST_KEY else None
        if found is None:
            raise UnknownKey("The API key is not known.")
        return found

    def request(self, key: str) -> TenantRequest:
        """Return a request of whoever has a key: `begin` it, and `finish` it when it is over.

        Raises:
            ApiError: the key is not known.
        """
        return self._request_of(self.identify(key))

    def request_for(self, tenant_id: str) -> TenantRequest:
        """Return a request that the batch service makes for a tenant.

        Args:
            tenant_id: as the batch service says, whose word has been proved; empty in open mode.

        Raises:
            ApiError: there is no such tenant, now or any more.
        """
        if not self.known:
            raise _not_known()
        found = self._registry.named(tenant_id)
        if found is None and (tenant_id or not self.is_open):
            raise UnknownKey("The tenant of this batch is not known.")
        return self._request_of(found or ANYONE, spare=True)

    def _request_of(self, tenant: Tenant, *, spare: bool = False) -> TenantRequest:
        meter = self._meters.get(tenant.id) or self._unlimited
        return TenantRequest(tenant, meter, self._clock, spare=spare)

    def _tell(self) -> None:
        """Say in which mode the gateway is, whenever that changes."""
        said = f"{len(self.tenants)} tenants: an API key is needed"
        if self.is_open:
            said = "open mode: there is no tenant, so anyone who reaches this port may use it"
        if said != self._told:
            log.warning(said) if self.is_open else log.info(said)
            self._told = said


def _not_known() -> ApiError:
    message = "The gateway does not know its tenants yet."
    return ApiError(ErrorCode.NO_CAPACITY, message, retry_after=NOT_KNOWN_RETRY_AFTER)


def sent_key(authorization: str | None, x_api_key: str | None = None) -> str:
    """Return the API key in a request's headers, or nothing; Anthropic's SDK uses `x-api-key`."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return (x_api_key or "").strip()
