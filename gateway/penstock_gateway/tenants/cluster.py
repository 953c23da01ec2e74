"""The tenants of a cluster: Tenants of one namespace, and the Secrets beside them.

One namespace, because whoever may create a Tenant can let anyone use every model: that is for the
people who run the gateway, not for everyone who may deploy a model. It also keeps the gateway's
right to read Secrets, if it has it at all, to that namespace.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic import ValidationError

from penstock_contract.api import Tenant as Manifest
from penstock_contract.api.stored import as_stored
from penstock_contract.api_keys import is_hash
from penstock_contract.labels import API_VERSION
from penstock_gateway.fleet.api_server import ApiServer, Collection, Object
from penstock_gateway.fleet.reflector import Reflector
from penstock_gateway.tenants.registry import TenantRegistry, registry_of

BURST_SECONDS = 0.05
"""Changes that come this close together become one snapshot."""


class Secret(NamedTuple):
    """What a Secret holds that may be the hash of a key; nothing else of it is kept."""

    name: str
    hashes: Mapping[str, str]


class NotUnderstood(NamedTuple):
    """A Tenant with fields of another version: it opens nothing, but it is there."""

    problem: str


class ClusterTenants:
    """Watches a namespace; see `TenantSource`.

    Args:
        api: the API server.
        namespace: of the Tenants.
        secrets: read Secrets too; without, only hashes in the Tenants themselves count.
    """

    def __init__(self, api: ApiServer, namespace: str, *, secrets: bool) -> None:
        self._reads_secrets = secrets
        self._woken = asyncio.Event()
        self._tenants = Reflector[Manifest | NotUnderstood](
            api,
            Collection(f"apis/{API_VERSION}", "tenants", namespace=namespace),
            manifest_of,
            self._woken.set,
        )
        self._secrets = Reflector[Secret](
            api,
            # Opaque ones only: Helm's releases and service accounts' tokens never get here.
            Collection("api/v1", "secrets", fields="type=Opaque", namespace=namespace),
            hashes_in,
            self._woken.set,
        )

    async def run(self, changed: Callable[[TenantRegistry], None]) -> None:
        """See `TenantSource.run`; the first snapshot comes when everything was seen."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tenants.run())
            if self._reads_secrets:
                group.create_task(self._secrets.run())
            while True:
                await self._woken.wait()
                await asyncio.sleep(BURST_SECONDS)
                self._woken.clear()
                if self._tenants.listed and self._secrets.listed == self._reads_secrets:
                    changed(self._registry())

    def _registry(self) -> TenantRegistry:
        found = self._tenants.items.values()
        return registry_of(
            [tenant for tenant in found if isinstance(tenant, Manifest)],
            {secret.name: secret.hashes for secret in self._secrets.items.values()},
            [tenant.problem for tenant in found if isinstance(tenant, NotUnderstood)],
        )


def manifest_of(tenant: Object) -> Manifest | NotUnderstood:
    """Return a Tenant, or why it is none."""
    try:
        return as_stored(Manifest.model_validate, tenant)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        return NotUnderstood(f"Tenant {tenant['metadata']['name']}: {path}: {first['msg']}")


def hashes_in(secret: Object) -> Secret | None:
    """Return the values of a Secret that are hashes of keys; None when there are none."""
    found = {
        key: text for key, value in (secret.get("data") or {}).items() if (text := _text(value))
    }
    hashes = {key: text for key, text in found.items() if is_hash(text)}
    return Secret(secret["metadata"]["name"], hashes) if hashes else None


def _text(value: str) -> str:
    try:
        return base64.b64decode(value).decode("ascii").strip()
    except (binascii.Error, UnicodeDecodeError):
        return ""
