"""On which revision of a deployment a request is served while a canary runs. Pure.

While a revision is on trial it gets a share of the requests. Which ones is decided by a hash of the
request's session, so a session stays where it is, and when the share grows sessions only ever move
to the new revision, never back.
"""

from bisect import bisect_left
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from penstock_contract.fleet import FleetCanary, FleetWorker
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import BOUNDARIES, FIRST_BOUNDARY, PrefixKeys


def session_key(affinity: str | None, keys: PrefixKeys, prompt: bytes) -> bytes:
    """Return what stays equal over a session.

    Without a header that is a long prefix: the shortest ones are a system prompt that all sessions
    share, and would send all of them the same way. A growing conversation changes sides at most
    when its length doubles.
    """
    if affinity:
        return affinity.encode("utf-8", "surrogateescape")
    if not keys:
        return prompt
    octave = FIRST_BOUNDARY << (BOUNDARIES[len(keys) - 1] // FIRST_BOUNDARY).bit_length() - 1
    return keys[bisect_left(BOUNDARIES, octave)].to_bytes(8, "little")


def on_trial(canary: FleetCanary, session: bytes) -> bool:
    """Return whether a session belongs to the `weight` percent that try the new revision."""
    # Salted by the revision, so that it is not always the same users who try what is new.
    salt = xxh3_64_intdigest(canary.revision.encode())
    share = xxh3_64_intdigest(session, salt) / 2**64 * 100
    return share < canary.weight


def preferred(
    workers: Sequence[FleetWorker], canary: FleetCanary | None, session: bytes
) -> frozenset[str]:
    """Return the ids of the workers of the session's revision; all if it has none."""
    everyone = frozenset(worker.id for worker in workers)
    if canary is None:
        return everyone
    wanted = on_trial(canary, session)
    own = frozenset(w.id for w in workers if (w.revision == canary.revision) == wanted)
    return own or everyone


def attempts(ranking: Sequence[Choice], trial: frozenset[str], most: int) -> list[Choice]:
    """Return the choices to try in turn: after a failure on trial, the proven revision is next."""
    first, rest = list(ranking[:1]), ranking[1:]
    if first and first[0].id in trial:
        rest = sorted(rest, key=lambda choice: choice.id in trial)
    return [*first, *rest][:most]
