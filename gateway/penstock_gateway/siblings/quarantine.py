"""A quarantine that the siblings share: a request that kills workers comes back anywhere."""

from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.siblings.change_log import ChangeLog, Event


class SharedQuarantine(Quarantine):
    """The quarantine of one of several processes."""

    def __init__(self, changes: ChangeLog) -> None:
        super().__init__()
        self._changes = changes

    def suspect(self, request: int, worker: str, now: float) -> bool:
        """See `Quarantine.suspect`."""
        self._changes.note(["suspected", worker, request, now])
        return super().suspect(request, worker, now)

    def clear(self, request: int) -> None:
        """See `Quarantine.clear`."""
        if request in self._suspicions:
            self._changes.note(["cleared", "", request])
        super().clear(request)

    def absolve(self, worker: str) -> None:
        """See `Quarantine.absolve`."""
        self._changes.note(["absolved", worker])
        super().absolve(worker)

    def hear(self, event: Event) -> bool:
        """Take over what a sibling found; return whether it was about requests at all."""
        match event:
            case ["suspected", worker, request, now]:
                super().suspect(request, worker, now)
            case ["cleared", _, request]:
                super().clear(request)
            case ["absolved", worker]:
                super().absolve(worker)
            case _:
                return False
        return True
