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
    return routed_prompt(parsed, model, tenant.salt, call.header(_AFFINITY), call.path)


def routed_prompt(
    parsed: ParsedRequest, model: FleetModel, salt: str, session: str, path: str
) -> Prompt:
    """Return what routing knows of a request.

    Args:
        parsed: its body.
        model: that it names.
        salt: of whoever asks.
        session: that it says it belongs to; may be empty.
        path: of it.
    """
    whose = f"{model.deployment}\0{salt}"
    if parsed.model in model.adapters:
        whose += f"\0{parsed.model}"
    return Prompt(
        prefix_keys(parsed.prompt, whose.encode()),
        parsed.size,
        session or None,
        # Vectors and scores are there when their inputs are computed, as first tokens are.
        parsed.stream or path in POOLING_PATHS,
    )
