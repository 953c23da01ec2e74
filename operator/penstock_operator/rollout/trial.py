"""A canary: how many workers of the new revision are on trial, since when, for how long. Pure."""

from dataclasses import dataclass
from math import ceil

from penstock_operator.rollout.state import RolloutState, staying


@dataclass(frozen=True)
class Trial:
    """A canary. Times are in seconds."""

    weight: int = 0
    """Percent of the requests; zero: there is none, or it has passed."""
    workers: int = 0
    """Of the new revision, while it is on trial."""
    since: float | None = None
    """When all of them were ready."""
    left: float | None = None
    """Until it takes over."""


def trial_of(at: RolloutState, target: str) -> Trial:
    """Return the canary of a rollout to the target revision."""
    plain = not at.canary or not at.stable or target in (at.stable, at.rejected)
    if at.canary is None or plain or not any(staying(at, at.stable)):
        return Trial()
    workers = max(1, ceil(at.replicas * at.canary.weight / 100))
    since = at.canary_since
    if since is None and sum(w.ready for w in staying(at, target)) >= workers:
        since = at.now
    if since is None:
        return Trial(at.canary.weight, workers)
    left = since + at.pause - at.now
    if left <= 0:
        return Trial(since=since)
    return Trial(at.canary.weight, workers, since, left)
