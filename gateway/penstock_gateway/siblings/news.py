"""What one process tells the others at a time, and who takes it over."""

from collections.abc import Callable
from typing import Any

from penstock_gateway.admission.processes import Level, Place, has_room
from penstock_gateway.relay.gate import Gates
from penstock_gateway.siblings.diary import Diary
from penstock_gateway.siblings.quarantine import SharedQuarantine
from penstock_gateway.siblings.router import SharedRouter
from penstock_gateway.siblings.tenancy import SharedTenancy

News = dict[str, Any]
"""    events: what happened since the last news, in order
        loads, tenants: of the workers and tenants that something has changed for
        whole: those are all that there is anything to tell of
        queues: running and waiting requests by deployment, always all
        left: of the tenants' limits; in the first news on a connection only
"""


class Rooms:
    """Knows how many requests the siblings run, and so whether there is room for one more."""

    def __init__(self, place: Place, diary: Diary, clock: Callable[[], float]) -> None:
        self._place = place
        self._diary = diary
        self._clock = clock
        self._told: dict[int, dict[str, Level]] = {}

    def room(self, deployment: str, capacity: int, running: int) -> bool:
        """See `gate.Room`."""
        self._diary.touched()
        others = {
            number: levels[deployment]
            for number, levels in self._told.items()
            if deployment in levels
        }
        return has_room(self._place, capacity, running, others, int(self._clock()))

    def hear(self, sibling: int, queues: dict[str, list[int]]) -> None:
        """Take over what a sibling runs."""
        self._told[sibling] = {name: Level(*level) for name, level in queues.items()}

    def still(self, sibling: int) -> None:
        """A sibling that says nothing may run what it ran, but nobody waits for it."""
        found = self._told.get(sibling, {})
        self._told[sibling] = {name: Level(level.running, 0) for name, level in found.items()}

    def gone(self, sibling: int) -> None:
        """A sibling has ended."""
        self._told.pop(sibling, None)


class Shared:
    """All that the processes of a gateway have in common, as this one sees it."""

    def __init__(
        self,
        diary: Diary,
        router: SharedRouter,
        tenancy: SharedTenancy,
        quarantine: SharedQuarantine,
        rooms: Rooms,
        clock: Callable[[], float],
    ) -> None:
        self.diary = diary
        self.router = router
        self.tenancy = tenancy
        self.quarantine = quarantine
        self.rooms = rooms
        self.clock = clock

    def news(self, gates: Gates, *, whole: bool) -> News:
        """Return what the siblings have to know."""
        events, workers = self.diary.read()
        return {
            "events": events,
            "loads": self.router.loads(None if whole else workers, self.clock()),
            "tenants": self.tenancy.usage(),
            "queues": gates.levels(),
            "whole": whole,
        }

    def opening(self, gates: Gates) -> News:
        """Return what a sibling has to know that was not told anything yet."""
        usage, left = self.tenancy.opening()
        loads, queues = self.router.loads(None, self.clock()), gates.levels()
        return {"loads": loads, "tenants": usage, "left": left, "queues": queues}

    def begin(self, sibling: int, news: News) -> None:
        """Take over a sibling's opening."""
        self.router.elsewhere(sibling, news["loads"], whole=True)
        self.tenancy.begin(sibling, news["tenants"], news["left"])
        self.rooms.hear(sibling, news["queues"])

    def hear(self, sibling: int, news: News) -> None:
        """Take over a sibling's news."""
        now = self.clock()
        for event in news["events"]:
            if not self.quarantine.hear(event):
                self.router.hear(event, now)
        self.router.elsewhere(sibling, news["loads"], whole=news["whole"])
        self.tenancy.hear(sibling, news["tenants"], whole=news["whole"])
        self.rooms.hear(sibling, news["queues"])

    def gone(self, sibling: int) -> None:
        """A sibling has ended, and what it had on workers with it."""
        self.router.elsewhere(sibling, {}, whole=True)
        self.tenancy.gone(sibling)
        self.rooms.gone(sibling)
