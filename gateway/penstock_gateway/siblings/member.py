"""One of several processes: what it serves with, and what it has to do besides."""

import asyncio
import shutil
from collections.abc import Callable

from penstock_gateway.relay.relay import Relay
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.siblings.account_store import AccountStore
from penstock_gateway.siblings.capacity import SharedCapacity
from penstock_gateway.siblings.change_log import ChangeLog
from penstock_gateway.siblings.introspection import GroupIntrospection, answers
from penstock_gateway.siblings.mesh import Mesh
from penstock_gateway.siblings.own_account import OwnAccount
from penstock_gateway.siblings.parent import Origin
from penstock_gateway.siblings.quarantine import SharedQuarantine
from penstock_gateway.siblings.router import SharedRouter
from penstock_gateway.siblings.tenancy import SharedTenancy
from penstock_gateway.siblings.updates import SharedState


class Member:
    """Makes what is shared; `begin` brings it together.

    Args:
        origin: of this process.
        clock: monotonic seconds, the same in all processes.
        keys_required: let nobody in without a key.
    """

    def __init__(self, origin: Origin, clock: Callable[[], float], *, keys_required: bool) -> None:
        self.process = origin.process
        self._origin = origin
        self._clock = clock
        self._mesh: Mesh | None = None
        self._own_account: OwnAccount | None = None
        self._orphaned = False
        self._changes = ChangeLog(self._wake)
        self.router = SharedRouter(PrefixIndex(), self._changes)
        self.tenancy = SharedTenancy(clock, self._changes, keys_required=keys_required)
        self.quarantine = SharedQuarantine(self._changes)
        self.capacity = SharedCapacity(origin.process, self._changes, clock)

    def begin(self, relay: Relay) -> GroupIntrospection:
        """Return what tells of all processes; the relay is the one that was made of this."""
        process, folder, _ = self._origin
        store = AccountStore(folder)
        self._own_account = OwnAccount(store, process.number, relay)
        shared = SharedState(
            self._changes, self.router, self.tenancy, self.quarantine, self.capacity, self._clock
        )
        self._mesh = Mesh(process, folder, shared, relay, answers(self._own_account, relay))
        return GroupIntrospection(self._own_account, store, self._mesh, relay)

    async def run(self, orphaned: Callable[[], None]) -> None:
        """Speak with the siblings until cancelled.

        Args:
            orphaned: is called when the parent has ended.
        """
        if self._own_account is None or self._mesh is None:
            raise RuntimeError("it has not begun")
        loop = asyncio.get_running_loop()

        def alone() -> None:
            loop.remove_reader(self._origin.alive)
            self._orphaned = True
            orphaned()

        loop.add_reader(self._origin.alive, alone)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._own_account.keep())
            group.create_task(self._mesh.run())

    def end(self) -> None:
        """Leave a last account, if there is anybody to read it."""
        if self._orphaned:
            shutil.rmtree(self._origin.folder, ignore_errors=True)
        elif self._own_account is not None:
            self._own_account.put()

    def _wake(self) -> None:
        if self._mesh is not None:
            self._mesh.wake()
