"""Finds the tenant of an API key. Pure.

Only hashes are known. They are found by their first digits, so that a look-up costs the same with
one tenant and with thousands, and compared in constant time.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping

from penstock_contract.api import Tenant as Manifest
from penstock_contract.api.tenant import ApiKey
from penstock_contract.api_keys import hash_of, is_hash
from penstock_gateway.tenants.tenant import Tenant

PREFIX = 16
"""Digits of a hash, 64 bits."""

Hashes = Mapping[str, Mapping[str, str]]
"""Values by key by name of a Secret."""


class TenantRegistry:
    """An immutable snapshot of all tenants.

    Args:
        tenants: each with the hashes of its keys.
        problems: what is wrong with tenants and keys that therefore open nothing; for the log.
    """

    def __init__(
        self, tenants: Iterable[tuple[Tenant, Iterable[str]]] = (), problems: Iterable[str] = ()
    ) -> None:
        self._by_prefix: dict[str, list[tuple[str, Tenant]]] = {}
        self.tenants: tuple[Tenant, ...] = ()
        found = list(problems)
        for tenant, hashes in tenants:
            self.tenants += (tenant,)
            found += [problem for key in hashes if (problem := self._add(tenant, key))]
        self.problems = tuple(found)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has asked for keys, not even in a way that is not understood."""
        return not self.tenants and not self.problems

    def find(self, key: str) -> Tenant | None:
        """Return the tenant that an API key belongs to."""
        digest = hash_of(key)
        tenant = None
        for stored, owner in self._by_prefix.get(digest[:PREFIX], ()):
            if hmac.compare_digest(stored, digest):
                tenant = owner
        return tenant

    def named(self, tenant_id: str) -> Tenant | None:
        """Return a tenant by its name."""
        return next((tenant for tenant in self.tenants if tenant.id == tenant_id), None)

    def _add(self, tenant: Tenant, key: str) -> str:
        same = self._by_prefix.setdefault(key[:PREFIX], [])
        for stored, owner in same:
            if hmac.compare_digest(stored, key) and owner.id != tenant.id:
                return f"Tenant {tenant.id}: Tenant {owner.id} has the same key, and keeps it"
        same.append((key, tenant))
        return ""


def registry_of(
    manifests: Iterable[Manifest], secrets: Hashes, not_understood: Iterable[str] = ()
) -> TenantRegistry:
    """Return the registry of all tenants; a key that cannot be read opens nothing."""
    problems = list(not_understood)
    found: list[tuple[Tenant, list[str]]] = []
    for manifest in sorted(manifests, key=lambda m: m.metadata.name):
        name = manifest.metadata.name
        hashes = _hashes(manifest.spec.api_keys, secrets, name, problems.append)
        found.append((Tenant.of(name, manifest.spec), hashes))
    return TenantRegistry(found, problems)


def _hashes(
    keys: Iterable[ApiKey], secrets: Hashes, tenant: str, complain: Callable[[str], None]
) -> list[str]:
    hashes = []
    for key in keys:
        value = key.sha256 or secrets.get(key.name or "", {}).get(key.key, "")
        if is_hash(value):
            hashes.append(value)
        else:
            where = f"the key {key.key!r} of the Secret {key.name!r}"
            what = "is not there" if not value else "is no hash (64 hexadecimal digits)"
            complain(f"Tenant {tenant}: {where} {what}; it opens nothing")
    return hashes
