"""The watches that run: one per kind and namespace, started and ended as kinds come and go.

An optional kind may be installed, or a cluster upgraded, long after the operator was started.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from penstock_operator.cluster.cache import Cache
from penstock_operator.cluster.informer import Informer
from penstock_operator.cluster.kinds import CHILDREN, Kind

log = logging.getLogger("penstock.operator.watch")

Make = Callable[[Kind, str | None], Informer]


class Watches:
    """Watches in some namespaces, or everywhere for none."""

    def __init__(self, make: Make, namespaces: Sequence[str], cache: Cache) -> None:
        self._make = make
        self._places: list[str | None] = [*namespaces] or [None]
        self._cache = cache
        self._running: dict[Kind, list[tuple[Informer, asyncio.Task[None]]]] = {}

    @property
    def listed(self) -> bool:
        """Whether all is seen."""
        return bool(self._running) and all(
            watch.listed.is_set() for running in self._running.values() for watch, _ in running
        )

    async def follow(self, kinds: Iterable[Kind], tasks: asyncio.TaskGroup) -> None:
        """Watch exactly these kinds; return once everything of them was seen."""
        wanted = list(kinds)
        if set(wanted) != set(self._running):
            names = {kind.name for kind in wanted}
            absent = sorted({kind.name for kind in CHILDREN} - names)
            log.info("left out, as the cluster does not serve them: %s", ", ".join(absent) or "-")
        for kind in self._running.keys() - set(wanted):
            self._end(kind)
        for kind in wanted:
            if kind not in self._running:
                watches = [self._make(kind, place) for place in self._places]
                self._running[kind] = [(w, tasks.create_task(w.run())) for w in watches]
        for kind in wanted:
            for watch, _ in self._running[kind]:
                await watch.listed.wait()

    def _end(self, kind: Kind) -> None:
        """What was seen in one version says nothing about the next one."""
        for _, task in self._running.pop(kind):
            task.cancel()
        for place in self._places:
            self._cache.forget(kind.name, place)
