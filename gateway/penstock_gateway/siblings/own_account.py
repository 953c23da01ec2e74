"""What this process has counted, kept where its siblings and its successor can read it."""

import asyncio
from typing import Final

from penstock_contract.fleet import GatewayWorkers
from penstock_gateway.relay.relay import Relay
from penstock_gateway.relay.waits import tell_held
from penstock_gateway.siblings.account_store import Account, AccountStore
from penstock_gateway.siblings.totals import added, counted, since

EVERY_SECONDS: Final = 1.0
"""Between two accounts; what was counted since the last one ends with a process that is killed."""


class OwnAccount:
    """Keeps this process's account, which goes on from that of its predecessor."""

    def __init__(self, store: AccountStore, number: int, relay: Relay) -> None:
        self._store = store
        self._number = number
        self._relay = relay
        before = store.get(number) or Account()
        self._metrics = counted(before.metrics)
        self._workers = before.workers.workers
        self.put()

    def put(self) -> Account:
        """Leave the present account in the store; return it."""
        tell_held(self._relay)
        workers = self._relay.loads().workers
        account = Account(
            metrics=added((self._metrics, self._relay.metrics.series())),
            workers=GatewayWorkers(
                workers={
                    name: since(load, self._workers.get(name)) for name, load in workers.items()
                }
            ),
        )
        self._store.put(self._number, account)
        return account

    async def keep(self) -> None:
        """Put it again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.put()

    def answer(self) -> bool:
        """Put it now, because a sibling wants to read it."""
        return bool(self.put())
