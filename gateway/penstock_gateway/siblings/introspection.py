"""What several processes tell as one gateway, whichever of them is asked."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from pydantic import TypeAdapter

from penstock_contract.fleet import GatewayWorkers
from penstock_contract.metrics import gateway as declared
from penstock_gateway.instruments import Instruments
from penstock_gateway.relay.relay import Relay
from penstock_gateway.siblings.account_store import Account, AccountStore
from penstock_gateway.siblings.mesh import Mesh
from penstock_gateway.siblings.own_account import OwnAccount
from penstock_gateway.siblings.totals import added, counted, loads
from penstock_gateway.status.collect import collect
from penstock_gateway.status.merge import merged
from penstock_gateway.status.snapshot import Status

ACCOUNT: Final = "account"
STATUS: Final = "status"
_STATUS: Final = TypeAdapter(Status)


class GroupIntrospection:
    """See `introspection.Introspection`.

    Args:
        own_account: of this process.
        store: with the accounts of all.
        mesh: of the processes.
        relay: of this process.
    """

    def __init__(
        self, own_account: OwnAccount, store: AccountStore, mesh: Mesh, relay: Relay
    ) -> None:
        self._own_account = own_account
        self._store = store
        self._mesh = mesh
        self._relay = relay

    async def metrics(self) -> bytes:
        """See `Introspection.metrics`."""
        answered = await self._mesh.ask(ACCOUNT)
        living, ended = self._accounts()
        registry = CollectorRegistry()
        instruments = Instruments(registry, declared.GATEWAY)
        instruments.fill(
            added([*(a.metrics for a in living), *(counted(a.metrics) for a in ended)])
        )
        told = instruments.gauge(declared.GATEWAY_PROCESSES)
        told.labels("answering").set(len(answered) + 1)
        told.labels("silent").set(len(self._mesh.siblings) - len(answered))
        return generate_latest(registry)

    async def workers(self) -> GatewayWorkers:
        """See `Introspection.workers`."""
        await self._mesh.ask(ACCOUNT)
        living, ended = self._accounts()
        found = loads((a.workers.workers for a in living), (a.workers.workers for a in ended))
        return GatewayWorkers(workers=found)

    async def status(self) -> Status:
        """See `Introspection.status`."""
        answers = await self._mesh.ask(STATUS)
        told = [_STATUS.validate_python(answer) for answer in answers.values()]
        silent = len(self._mesh.siblings) - len(told)
        return merged([collect(self._relay), *told], silent)

    def _accounts(self) -> tuple[list[Account], list[Account]]:
        """Return the accounts of those that are there, and of those that are not."""
        there = self._mesh.there
        living, ended = [self._own_account.put()], list[Account]()
        for sibling in self._mesh.siblings:
            account = self._store.get(sibling)
            if account is not None:
                (living if sibling in there else ended).append(account)
        return living, ended


def answers(own_account: OwnAccount, relay: Relay) -> dict[str, Any]:
    """Return what siblings may ask for."""
    return {ACCOUNT: own_account.answer, STATUS: lambda: collect(relay)}
