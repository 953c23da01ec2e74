"""Tenants that use one set of limits in all processes of a gateway.

Each process keeps every bucket, and takes from it what any process takes. What was taken is told as
a sum since the process began, so that what did not arrive once is made up for by what comes next.
"""

from collections.abc import Callable, Iterable

from penstock_gateway.siblings.change_log import ChangeLog
from penstock_gateway.tenants.bucket import Bucket
from penstock_gateway.tenants.tenancy import Tenancy
from penstock_gateway.tenants.tenant import Tenant
from penstock_gateway.tenants.tenant_request import TenantRequest

Usage = dict[str, list[int]]
"""Requests under way, and requests and tokens taken since the process began, by tenant."""
Left = dict[str, list[float | None]]
"""Requests and tokens left in this minute, by tenant; None: without a limit."""


class SharedTenancy(Tenancy):
    """The tenancy as one of several processes sees it.

    Args:
        clock: monotonic seconds, the same in all processes.
        changes: is touched when there is something to tell.
        keys_required: let nobody in without a key, even when there is no tenant.
    """

    def __init__(
        self, clock: Callable[[], float], changes: ChangeLog, *, keys_required: bool = False
    ) -> None:
        super().__init__(clock, keys_required=keys_required)
        self._changes = changes
        self._active: set[str] = set()
        self._theirs: dict[int, Usage] = {}
        """By sibling."""

    def _request_of(self, tenant: Tenant, *, spare: bool = False) -> TenantRequest:
        """See `Tenancy.request`."""
        tenant_request = super()._request_of(tenant, spare=spare)
        if tenant_request.tenant.id:
            self._active.add(tenant_request.tenant.id)
            self._changes.touched()
        return tenant_request

    def usage(self) -> Usage:
        """Return what the tenants use that were active since the last call, or still are."""
        found: Usage = {}
        for tenant in list(self._active):
            meter = self._meters.get(tenant)
            if meter is not None:
                found[tenant] = [meter.running, meter.begun, meter.spent]
            if meter is None or not meter.running:
                self._active.discard(tenant)
        return found

    def opening(self) -> tuple[Usage, Left]:
        """Return what a process has to know that has just begun."""
        now = self._clock()
        usage = {name: [m.running, m.begun, m.spent] for name, m in self._meters.items()}
        left: Left = {
            name: [_left(meter.requests, now), _left(meter.tokens, now)]
            for name, meter in self._meters.items()
        }
        return usage, left

    def begin(self, sibling: int, usage: Usage, left: Left) -> None:
        """A sibling is there; what it counts from, and what it knows to be left."""
        now = self._clock()
        for tenant, known in left.items():
            meter = self._meters.get(tenant)
            if meter is not None:
                requests = _surplus(meter.requests, known[0], now)
                meter.used_elsewhere(requests, _surplus(meter.tokens, known[1], now), now)
        self._theirs[sibling] = dict(usage)
        self._count(usage)

    def hear(self, sibling: int, usage: Usage, *, whole: bool) -> None:
        """Take over what a sibling's tenants have used since; those not named do nothing."""
        now, known = self._clock(), self._theirs.setdefault(sibling, {})
        for tenant, (_, begun, spent) in usage.items():
            _, before, spent_before = known.get(tenant, (0, 0, 0))
            meter = self._meters.get(tenant)
            if meter is not None:
                meter.used_elsewhere(begun - before, spent - spent_before, now)
        idle = [name for name in known if name not in usage] if whole else []
        for tenant in idle:
            known[tenant] = [0, *known[tenant][1:]]
        known.update(usage)
        self._count([*idle, *usage])

    def gone(self, sibling: int) -> None:
        """A sibling has ended, and its requests with it."""
        self._count(self._theirs.pop(sibling, {}))

    def _count(self, tenants: Iterable[str]) -> None:
        for tenant in tenants:
            meter = self._meters.get(tenant)
            if meter is not None:
                told = [known[tenant][0] for known in self._theirs.values() if tenant in known]
                meter.elsewhere = sum(told)


def _left(bucket: Bucket | None, now: float) -> float | None:
    return None if bucket is None else bucket.left(now)


def _surplus(bucket: Bucket | None, left: float | None, now: float) -> float:
    """Return by how much a bucket is fuller than another process knows it to be."""
    return 0.0 if bucket is None or left is None else max(0.0, bucket.left(now) - left)
