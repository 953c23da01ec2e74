"""Who asks for a batch: its requests come with a ticket in place of an API key."""

import time
from typing import Final

from penstock_contract import headers
from penstock_contract.on_behalf import Seals, Ticket, Towards
from penstock_gateway.relay.call import Call
from penstock_gateway.tenants.tenancy import UnknownKey

_ON_BEHALF: Final = headers.ON_BEHALF.encode()


def ticket_of(call: Call, seals: Seals) -> Ticket | None:
    """Return the batch service's ticket; None: the request is a client's own.

    Args:
        call: the request.
        seals: shared with the batch service; where there is none, nobody has a ticket.

    Raises:
        ApiError: it is not valid.
    """
    sealed = call.header(_ON_BEHALF) if seals.values else ""
    if not sealed:
        return None
    ticket = seals.open(Towards.GATEWAY, sealed, time.time())
    if ticket is None:
        raise UnknownKey("The ticket is not the batch service's, or is too old.")
    return ticket
