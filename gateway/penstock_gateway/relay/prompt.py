"""What routing goes by in a request: its prefixes, salted by whose they are."""

from typing import Final

from penstock_contract import headers
from penstock_contract.fleet import FleetModel
from penstock_contract.tasks import POOLING_PATHS
from penstock_gateway.relay.call import Call
from penstock_gateway.relay.request import ParsedRequest
from penstock_gateway.routing.prefix_index import prefix_keys
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.tenants.tenant import Tenant

_AFFINITY: Final = headers.SESSION_AFFINITY.encode()


def prompt_of(call: Call, parsed: ParsedRequest, model: FleetModel, tenant: Tenant) -> Prompt:
    """Return what routing knows of a request; tenants and adapters never share a prefix."""
    whose = f"{model.deployment}\0{tenant.salt}"
    if parsed.model in model.adapters:
        whose += f"\0{parsed.model}"
    return Prompt(
        prefix_keys(parsed.prompt, whose.encode()),
        parsed.size,
        call.header(_AFFINITY) or None,
        # Vectors and scores are there when their inputs are computed, as first tokens are.
        parsed.stream or call.path in POOLING_PATHS,
    )
