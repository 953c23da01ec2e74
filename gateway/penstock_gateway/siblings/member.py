"""One of several processes: what it serves with, and what it has to do besides."""

import asyncio
import shutil
from collections.abc import Callable

from penstock_gateway.relay.relay import Relay
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.siblings.circle import Circle
from penstock_gateway.siblings.diary import Diary
from penstock_gateway.siblings.news import Rooms, Shared
from penstock_gateway.siblings.parent import Origin
from penstock_gateway.siblings.quarantine import SharedQuarantine
from penstock_gateway.siblings.router import SharedRouter
from penstock_gateway.siblings.shelf import Shelf
from penstock_gateway.siblings.tenancy import SharedTenancy
from penstock_gateway.siblings.together import Book, Together, answers


class Member:
    """Makes what is shared; `begin` brings it together.

    Args:
        origin: of this process.
        clock: monotonic seconds, the same in all processes.
        keys_required: let nobody in without a key.
    """

    def __init__(self, origin: Origin, clock: Callable[[], float], *, keys_required: bool) -> None:
        self.place = origin.place
        self._origin = origin
        self._clock = clock
        self._circle: Circle | None = None
        self._book: Book | None = None
        self._orphaned = False
        self._diary = Diary(self._wake)
        self.router = SharedRouter(PrefixIndex(), self._diary)
        self.tenancy = SharedTenancy(clock, self._diary, keys_required=keys_required)
        self.quarantine = SharedQuarantine(self._diary)
        self.rooms = Rooms(origin.place, self._diary, clock)

    def begin(self, relay: Relay) -> Together:
        """Return what tells of all processes; the relay is the one that was made of this."""
        place, folder, _ = self._origin
        shelf = Shelf(folder)
        self._book = Book(shelf, place.number, relay)
        shared = Shared(
            self._diary, self.router, self.tenancy, self.quarantine, self.rooms, self._clock
        )
        self._circle = Circle(place, folder, shared, relay, answers(self._book, relay))
        return Together(self._book, shelf, self._circle, relay)

    async def run(self, orphaned: Callable[[], None]) -> None:
        """Speak with the siblings until cancelled.

        Args:
            orphaned: is called when the parent has ended.
        """
        if self._book is None or self._circle is None:
            raise RuntimeError("it has not begun")
        loop = asyncio.get_running_loop()

        def alone() -> None:
            loop.remove_reader(self._origin.alive)
            self._orphaned = True
            orphaned()

        loop.add_reader(self._origin.alive, alone)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._book.keep())
            group.create_task(self._circle.run())

    def end(self) -> None:
        """Leave a last account, if there is anybody to read it."""
        if self._orphaned:
            shutil.rmtree(self._origin.folder, ignore_errors=True)
        elif self._book is not None:
            self._book.put()

    def _wake(self) -> None:
        if self._circle is not None:
            self._circle.wake()
