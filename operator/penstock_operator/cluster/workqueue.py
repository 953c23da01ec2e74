"""Who is to be reconciled, and when: each key once, whoever asked how often.

A key is never worked on by two at a time; what comes in meanwhile is kept for one more turn. After
a failure the pause doubles, up to a limit, with a random part so that a thousand objects don't all
come back at once.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0

K = TypeVar("K")


class WorkQueue(Generic[K]):
    """Runs `work` for keys that were asked for; it returns seconds until it wants to run again."""

    def __init__(self, work: Callable[[K], Awaitable[float | None]], at_once: int) -> None:
        self._work = work
        self._at_once = at_once
        self._ready: dict[K, None] = {}
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._serial = 0
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, keys: Iterable[K]) -> None:
        """Ask for keys, at once."""
        for key in keys:
            if key in self._running:
                self._again.add(key)
            else:
                self._ready[key] = None
        self._wake.set()

    def add_later(self, key: K, seconds: float) -> None:
        """Ask for a key in some time; the earliest time asked for counts."""
        at = asyncio.get_running_loop().time() + seconds
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            self._serial += 1
            heapq.heappush(self._timers, (at, self._serial, key))
            self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                pause = self._pop_timers()
                while self._ready and len(self._running) < self._at_once:
                    key = next(iter(self._ready))
                    del self._ready[key]
                    self._running.add(key)
                    tasks.create_task(self._one(key))
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _one(self, key: K) -> None:
        try:
            again = await self._work(key)
        except Exception as error:  # the work logs it; here it only has to come back
            count = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(count - 1, 10))
            wait = pause * random.uniform(0.5, 1.0)
            self.add_later(key, max(wait, getattr(error, "retry_after", None) or 0.0))
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_later(key, again)
        finally:
            self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                if key not in self._failures:
                    self._ready[key] = None
            self._wake.set()

    def _pop_timers(self) -> float | None:
        """Move what is due to the ready ones; return seconds until the next is."""
        now = asyncio.get_running_loop().time()
        while self._timers and self._timers[0][0] <= now:
            at, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == at:
                del self._due[key]
                self.add([key])
        return self._timers[0][0] - now if self._timers else None
