"""Why requests wait, for those who run the gateway."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from penstock_gateway.relay.relay import Relay


class Reason(StrEnum):
    """What is missing."""

    WORKER = "no worker is ready"
    PLACE = "workers run as many requests as they can"
    PROMPTS = "workers have enough prompts"


@dataclass(frozen=True)
class Wait:
    """Requests that wait for the same workers."""

    model: str
    workers: str
    """Which ones: workers, prefill, proven or trial."""
    count: int
    reason: Reason
    seconds: float | None
    """About how long until one wants a prompt, where they have enough; None: nobody knows."""


def waits(relay: Relay) -> Iterator[Wait]:
    """Yield all that wait, model by model."""
    levels = relay.gates.levels()
    for model in relay.directory().fleet.models:
        running, _ = levels.get(model.deployment, (0, 0))
        places = relay.capacity(model)
        full = Reason.PLACE if places else Reason.WORKER
        for destination, count in relay.gates.destinations(model.deployment).items():
            name = destination.name(model.canary)
            if not relay.room(model.deployment, places, running):
                yield Wait(model.name, name, count, full, None)
            else:
                seconds = relay.hold.room_in(model, destination)
                yield Wait(model.name, name, count, Reason.PROMPTS, seconds)


def tell_held(relay: Relay) -> None:
    """Bring the metrics of those that are held back, and by what, up to date."""
    found = (wait for wait in waits(relay) if wait.reason is Reason.PROMPTS)
    relay.metrics.held((wait.model, wait.workers, wait.count) for wait in found)
    models = relay.directory().fleet.models
    relay.metrics.prompt_tokens((model.name, relay.hold.token_seconds(model)) for model in models)
