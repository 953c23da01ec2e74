"""Room for a model's requests, of which each process of a gateway knows a part."""

from collections.abc import Callable, Mapping, Sequence

from penstock_gateway.admission.processes import Level, ProcessIndex, has_room
from penstock_gateway.siblings.change_log import ChangeLog


class SharedCapacity:
    """Knows how many requests the siblings run, and so whether there is room for one more."""

    def __init__(
        self, process: ProcessIndex, changes: ChangeLog, clock: Callable[[], float]
    ) -> None:
        self._process = process
        self._changes = changes
        self._clock = clock
        self._told: dict[int, dict[str, Level]] = {}

    def room(self, deployment: str, capacity: int, running: int) -> bool:
        """See `gate.Room`."""
        self._changes.touched()
        others = {
            number: levels[deployment]
            for number, levels in self._told.items()
            if deployment in levels
        }
        return has_room(self._process, capacity, running, others, int(self._clock()))

    def hear(self, sibling: int, queues: Mapping[str, Sequence[int]]) -> None:
        """Take over what a sibling runs."""
        self._told[sibling] = {name: Level(*level) for name, level in queues.items()}

    def still(self, sibling: int) -> None:
        """A sibling that says nothing may run what it ran, but nobody waits for it."""
        found = self._told.get(sibling, {})
        self._told[sibling] = {name: Level(level.running, 0) for name, level in found.items()}

    def gone(self, sibling: int) -> None:
        """A sibling has ended."""
        self._told.pop(sibling, None)
