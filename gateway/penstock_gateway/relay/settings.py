"""What is chosen once for all requests of a gateway, by its flags."""

from dataclasses import dataclass, field

from penstock_contract.on_behalf import Seals
from penstock_contract.worker_token import WorkerTokens


@dataclass(frozen=True)
class RelaySettings:
    """What an operator of the gateway may choose."""

    max_body: int
    """Bytes; larger bodies are refused."""
    debug_headers: bool = False
    """Tell clients which worker answered, and why it was chosen."""
    tokens: WorkerTokens = field(default_factory=WorkerTokens)
    """Shown to workers."""
    processes: int = 1
    """That share the limits of one gateway."""
    seals: Seals = field(default_factory=Seals)
    """By which the batch service is known; none: there is none."""
