"""Leader election by a Lease: of all replicas one acts, and never two.

The rules of client-go: who holds the lease renews it; who does not watches its version and takes it
when it has not changed for its whole duration, measured by its own clock, so that clocks need not
agree. The holder stops acting well before that time has passed since its last renewal.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.kinds import Kind
from penstock_operator.manifests import Object

log = logging.getLogger("penstock.operator.lease")

LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases", "")
DURATION = 15
"""Seconds after which a lease that was not renewed may be taken."""
DEADLINE = 10.0
"""Seconds since the last renewal after which the holder acts no more."""
RETRY = 2.0


class Lease:
    """One candidate for the leadership."""

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen_version = ""
        self._seen_at = 0.0
        self._renewed = float("-inf")

    @property
    def held(self) -> bool:
        """Whether this candidate may act at this very moment."""
        return time.monotonic() - self._renewed < DEADLINE

    async def acquire(self) -> None:
        """Wait until the lease is held."""
        while not await self._try():  # noqa: ASYNC110 - the API server is what is asked
            await asyncio.sleep(RETRY)
        log.info("leading as %s", self._identity)

    async def keep(self) -> None:
        """Renew until that was not possible in time."""
        while self.held:
            await asyncio.sleep(RETRY)
            await self._try()
        log.error("lost the lease: it could not be renewed for %.0f s", DEADLINE)

    async def release(self) -> None:
        """Let another candidate take over at once."""
        if not self.held:
            return
        self._renewed = float("-inf")
        try:
            found = await self._api.get(LEASE, self._namespace, self._name)
            if found and found["spec"].get("holderIdentity") == self._identity:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASE, self._namespace, self._name, found)
        except ApiError as error:
            log.warning("the lease runs out by itself: %s", error)

    async def _try(self) -> bool:
        """Take or renew the lease; return whether that worked."""
        began = time.monotonic()  # the renewal counts from before it was sent
        try:
            async with asyncio.timeout(DEADLINE / 2):
                done = await self._write(await self._api.get(LEASE, self._namespace, self._name))
        except (ApiError, TimeoutError) as error:
            log.warning("the lease could not be renewed: %s", error or "no answer in time")
            return False
        if done:
            self._renewed = began
        return done

    async def _write(self, found: Object | None) -> bool:
        if found is None:
            await self._api.create(LEASE, self._namespace, self._fresh())
            return True
        spec = found["spec"]
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._run_out(found):
            return False
        if holder != self._identity:
            spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
            spec["acquireTime"] = _now()
        spec |= {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION,
            "renewTime": _now(),
        }
        await self._api.replace(LEASE, self._namespace, self._name, found)
        return True

    def _run_out(self, found: Object) -> bool:
        version = found["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version = version
            self._seen_at = time.monotonic()
            return False
        duration = float(found["spec"].get("leaseDurationSeconds", DURATION))
        return time.monotonic() - self._seen_at > duration

    def _fresh(self) -> Object:
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": 0,
        }
        metadata = {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASE.version, "kind": LEASE.name, "metadata": metadata, "spec": spec}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
