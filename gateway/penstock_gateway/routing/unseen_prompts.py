"""When prompts count as computed whose first token nobody sees: their answers do not stream.

Until then a worker is believed to be busy with them.
"""

import heapq
from collections.abc import Mapping
from typing import Final

from penstock_gateway.routing.worker_load import Load

SHORTEST: Final = 0.01
"""Seconds after which it is looked again whether a prompt can be computed by now."""


class UnseenPrompts:
    """Those of all workers, by when they should have been computed."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, str]] = []

    def add(self, number: int, worker: str, load: Load, due: float) -> None:
        """A worker was given one, which should be computed at `due`."""
        load.unseen.add(number)
        heapq.heappush(self._due, (due, number, worker))

    def let_go(self, loads: Mapping[str, Load], now: float) -> None:
        """Count those as computed for which it is time.

        That is as predicted, but not before those that the worker got before them.
        """
        while self._due and self._due[0][0] <= now:
            _, number, worker = heapq.heappop(self._due)
            load = loads.get(worker)
            if load is None or number not in load.unseen:
                continue
            if load.is_ahead(number):
                own = load.waiting[number] * load.speed.speed.token
                heapq.heappush(self._due, (now + max(own, SHORTEST), number, worker))
            else:
                load.began(number)
