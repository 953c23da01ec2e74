"""What one process tells the others at a time, and what takes that over."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from penstock_gateway.relay.gate import Gates
from penstock_gateway.siblings.capacity import SharedCapacity
from penstock_gateway.siblings.change_log import ChangeLog, Event
from penstock_gateway.siblings.quarantine import SharedQuarantine
from penstock_gateway.siblings.router import Loads, SharedRouter
from penstock_gateway.siblings.tenancy import Left, SharedTenancy, Usage

Queues = Mapping[str, Sequence[int]]
"""Running and waiting requests, by deployment."""


class Opening(TypedDict):
    """All that a sibling has to know that was not told anything yet."""

    loads: Loads
    tenants: Usage
    left: Left
    queues: Queues


class Update(TypedDict):
    """What has changed since the update before."""

    events: list[Event]
    """In order."""
    loads: Loads
    """Of the workers that something has changed for."""
    tenants: Usage
    """The same of tenants."""
    whole: bool
    """Loads and tenants are all that there is anything to tell of."""
    queues: Queues
    """Always all."""


class SharedState:
    """All that the processes of a gateway have in common, as this one sees it."""

    def __init__(
        self,
        changes: ChangeLog,
        router: SharedRouter,
        tenancy: SharedTenancy,
        quarantine: SharedQuarantine,
        capacity: SharedCapacity,
        clock: Callable[[], float],
    ) -> None:
        self.changes = changes
        self.router = router
        self.tenancy = tenancy
        self.quarantine = quarantine
        self.capacity = capacity
        self.clock = clock

    def next_update(self, gates: Gates, *, whole: bool) -> Update:
        """Return what the siblings have to know."""
        events, workers = self.changes.read()
        return {
            "events": events,
            "loads": self.router.loads(None if whole else workers, self.clock()),
            "tenants": self.tenancy.usage(),
            "queues": gates.levels(),
            "whole": whole,
        }

    def opening(self, gates: Gates) -> Opening:
        """Return what a sibling has to know that was not told anything yet."""
        usage, left = self.tenancy.opening()
        loads, queues = self.router.loads(None, self.clock()), gates.levels()
        return {"loads": loads, "tenants": usage, "left": left, "queues": queues}

    def begin(self, sibling: int, opening: Opening) -> None:
        """Take over a sibling's opening."""
        self.router.elsewhere(sibling, opening["loads"], whole=True)
        self.tenancy.begin(sibling, opening["tenants"], opening["left"])
        self.capacity.hear(sibling, opening["queues"])

    def hear(self, sibling: int, update: Update) -> None:
        """Take over a sibling's update."""
        now = self.clock()
        for event in update["events"]:
            if not self.quarantine.hear(event):
                self.router.hear(event, now)
        self.router.elsewhere(sibling, update["loads"], whole=update["whole"])
        self.tenancy.hear(sibling, update["tenants"], whole=update["whole"])
        self.capacity.hear(sibling, update["queues"])

    def still(self, sibling: int) -> None:
        """A sibling says nothing: nobody waits for it."""
        self.router.still(sibling)
        self.capacity.still(sibling)

    def gone(self, sibling: int) -> None:
        """A sibling has ended, and what it had on workers with it."""
        self.router.elsewhere(sibling, {}, whole=True)
        self.tenancy.gone(sibling)
        self.capacity.gone(sibling)
