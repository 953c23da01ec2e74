"""What several processes tell as one gateway, whichever of them is asked."""

import asyncio
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from pydantic import TypeAdapter

from penstock_contract import metrics as declared
from penstock_contract.fleet import GatewayWorkers
from penstock_gateway.instruments import Instruments
from penstock_gateway.relay.relay import Relay
from penstock_gateway.siblings.circle import Circle
from penstock_gateway.siblings.shelf import Account, Shelf
from penstock_gateway.siblings.totals import added, counted, loads, since
from penstock_gateway.status.collect import collect
from penstock_gateway.status.merge import merged
from penstock_gateway.status.snapshot import Status

EVERY_SECONDS: Final = 1.0
"""Between two accounts; what was counted since the last one ends with a process that is killed."""
ACCOUNT: Final = "account"
STATUS: Final = "status"
_STATUS: Final = TypeAdapter(Status)


class Book:
    """Keeps this process's account, which goes on from that of its predecessor."""

    def __init__(self, shelf: Shelf, number: int, relay: Relay) -> None:
        self._shelf = shelf
        self._number = number
        self._relay = relay
        before = shelf.get(number) or Account()
        self._metrics = counted(before.metrics)
        self._workers = before.workers.workers
        self.put()

    def put(self) -> Account:
        """Leave the present account on the shelf; return it."""
        workers = self._relay.workers().workers
        account = Account(
            metrics=added((self._metrics, self._relay.metrics.series())),
            workers=GatewayWorkers(
                workers={
                    name: since(load, self._workers.get(name)) for name, load in workers.items()
                }
            ),
        )
        self._shelf.put(self._number, account)
        return account

    async def keep(self) -> None:
        """Put it again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.put()

    def answer(self) -> bool:
        """Put it now, because a sibling wants to read it."""
        return bool(self.put())


class Together:
    """See `telling.Telling`.

    Args:
        book: of this process.
        shelf: with the accounts of all.
        circle: of the processes.
        relay: of this process.
    """

    def __init__(self, book: Book, shelf: Shelf, circle: Circle, relay: Relay) -> None:
        self._book = book
        self._shelf = shelf
        self._circle = circle
        self._relay = relay

    async def metrics(self) -> bytes:
        """See `Telling.metrics`."""
        answered = await self._circle.ask(ACCOUNT)
        living, ended = self._accounts()
        registry = CollectorRegistry()
        instruments = Instruments(registry, declared.GATEWAY)
        instruments.fill(
            added([*(a.metrics for a in living), *(counted(a.metrics) for a in ended)])
        )
        told = instruments.gauge(declared.GATEWAY_PROCESSES)
        told.labels("answering").set(len(answered) + 1)
        told.labels("silent").set(len(self._circle.siblings) - len(answered))
        return generate_latest(registry)

    async def workers(self) -> GatewayWorkers:
        """See `Telling.workers`."""
        await self._circle.ask(ACCOUNT)
        living, ended = self._accounts()
        found = loads((a.workers.workers for a in living), (a.workers.workers for a in ended))
        return GatewayWorkers(workers=found)

    async def status(self) -> Status:
        """See `Telling.status`."""
        answers = await self._circle.ask(STATUS)
        told = [_STATUS.validate_python(answer) for answer in answers.values()]
        silent = len(self._circle.siblings) - len(told)
        return merged([collect(self._relay), *told], silent)

    def _accounts(self) -> tuple[list[Account], list[Account]]:
        """Return the accounts of those that are there, and of those that are not."""
        there = self._circle.there
        living, ended = [self._book.put()], list[Account]()
        for sibling in self._circle.siblings:
            account = self._shelf.get(sibling)
            if account is not None:
                (living if sibling in there else ended).append(account)
        return living, ended


def answers(book: Book, relay: Relay) -> dict[str, Any]:
    """Return what siblings may ask for."""
    return {ACCOUNT: book.answer, STATUS: lambda: collect(relay)}
