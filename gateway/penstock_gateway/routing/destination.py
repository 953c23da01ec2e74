"""Which workers a prompt can go to, and so for whom it waits. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetCanary, FleetDisaggregation, FleetWorker


class Destination(NamedTuple):
    """What decides which workers a prompt can go to, whoever is there when its turn comes."""

    split: bool = False
    """It is long enough to be computed by a prefill worker."""
    trial: bool = False
    """Its session belongs to those that try the new revision."""

    def name(self, canary: FleetCanary | None) -> str:
        """Return what its workers are called in metrics and on the status page."""
        if self.split:
            return "prefill"
        if canary is None:
            return "workers"
        return "trial" if self.trial else "proven"


ANYWHERE: Final = Destination()
PREFILL: Final = Destination(split=True)
"""Of all revisions: those who wait for the same workers stand in one line."""
TRIAL: Final = Destination(trial=True)


def is_split(rule: FleetDisaggregation, uncached: int) -> bool:
    """Return whether a prompt is for prefill workers, so many tokens being cached nowhere."""
    if rule.mode is DisaggregationMode.AUTO:
        return uncached >= rule.min_uncached_tokens
    return rule.mode is DisaggregationMode.ALWAYS


def destined(
    destination: Destination,
    canary: FleetCanary | None,
    whole: Sequence[FleetWorker],
    prefill: Sequence[FleetWorker],
) -> Sequence[FleetWorker]:
    """Return the workers that compute such prompts now.

    Args:
        destination: of the prompts.
        canary: the revision on trial, if there is one.
        whole: workers for whole requests.
        prefill: those that compute prompts for others.
    """
    if destination.split:
        return prefill or whole
    if canary is None:
        return whole
    return [w for w in whole if (w.revision == canary.revision) == destination.trial] or whole
