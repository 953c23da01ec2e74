"""Which workers go, which stay after all, and what sizes follow for the Deployments. Pure.

A ReplicaSet that shrinks takes any of the pods that drain, confirmed or not. So a revision shrinks
only when all of its workers that drain are confirmed, and no more of them begin to drain while it
does.
"""

from penstock_operator.rollout.state import RolloutState, Worker, emptiest


def moves(at: RolloutState, target: str, limit: int, rejected: str) -> tuple[list[str], list[str]]:
    """Return whom to give work again, and whom to take it from, by id.

    Args:
        at: the pool now.
        target: revision that is to have all workers.
        limit: workers that it may have for now.
        rejected: revision of which none is to stay; empty: there is none.
    """
    shrinking = {w.revision for w in at.workers if w.removable}
    mine = [w for w in at.workers if w.revision == target]
    staying = [w for w in mine if not w.draining]
    leaving = sorted((w for w in mine if w.draining), key=lambda w: (not w.ready, w.id))
    undrain = [w.id for w in leaving[: max(0, limit - len(staying))]]
    free = [] if target in shrinking else staying
    surplus = sorted(free, key=emptiest)[: max(0, len(staying) - limit)]
    ready = sum(w.ready for w in at.workers if not w.draining) + len(undrain)
    ready -= sum(w.ready for w in surplus)
    floor = at.replicas - at.max_unavailable
    others = [w for w in at.workers if w.revision != target and not w.draining]
    # Spared are those that a worker of the target stands in for, those that may be missing, and
    # all of a revision that was rejected.
    keep = max(0, floor - sum(w.ready for w in staying))
    spare = len([w for w in others if w.revision != rejected]) - keep
    others_free = [w for w in others if w.revision not in shrinking]
    drain = [*(w.id for w in surplus), *_replaced(others_free, rejected, spare, ready - floor)]
    left = sum(w.id not in drain for w in others)
    room = max(0, at.replicas + at.max_surge - left)
    return _within(room, staying, free, undrain, drain)


def _replaced(others: list[Worker], rejected: str, spare: int, above_floor: int) -> list[str]:
    """Return which workers of other revisions may go now.

    Args:
        others: workers of other revisions that do not drain yet.
        rejected: revision of which all go.
        spare: workers of the rest that the pool can do without.
        above_floor: ready workers that it can do without.
    """
    gone: list[str] = []
    for worker in sorted(others, key=lambda w: (w.revision != rejected, *emptiest(w))):
        if worker.revision != rejected:
            if spare <= 0:
                continue
            spare -= 1
        if worker.ready:
            if above_floor <= 0:
                continue
            above_floor -= 1
        gone.append(worker.id)
    return gone


def _within(
    room: int, staying: list[Worker], free: list[Worker], undrain: list[str], drain: list[str]
) -> tuple[list[str], list[str]]:
    """Let workers that are not ready go where a shrunken pool has no room for so many."""
    unready = sorted((w for w in free if not w.ready and w.id not in drain), key=emptiest)
    kept = sum(w.id not in drain for w in staying)
    undrain = undrain[: max(0, room - kept)]
    return undrain, [*drain, *(w.id for w in unready[: max(0, kept - room)])]


def sizes_of(
    at: RolloutState,
    target: str,
    limit: int,
    undrain: list[str],
) -> dict[str, int]:
    """Return the size of every Deployment: what exists, less who can go, plus who may come."""
    sizes: dict[str, int] = {}
    staying = 0
    # Pods of the stable revision that are yet to come are waited for only as far as nothing else
    # stands in for them.
    standing = [w for w in at.workers if not w.draining and (w.ready or w.revision != target)]
    missing = max(0, at.replicas - len(standing))
    for revision in {*at.sizes, *(w.revision for w in at.workers)} - {target}:
        size, stays = _others(at, revision, missing)
        sizes[revision] = size
        staying += stays
    mine = [w for w in at.workers if w.revision == target]
    gone = _gone(at, target, undrain)
    draining = sum(w.draining and w.id not in undrain for w in mine)
    coming = max(0, at.sizes.get(target, 0) - len(mine))
    have = len(mine) - draining + coming
    surge = at.max_surge if staying else 0
    room = at.replicas + surge - staying - have
    grow = min(limit - have, room)
    sizes[target] = len(mine) - gone + max(0, coming + grow)
    return sizes


def _others(at: RolloutState, revision: str, missing: int) -> tuple[int, int]:
    """Return the size of a revision that is on its way out, and how many of it stay for now."""
    workers = [w for w in at.workers if w.revision == revision]
    gone = _gone(at, revision, [])
    coming = min(missing, max(0, at.sizes.get(revision, 0) - len(workers)))
    if revision != at.stable:
        coming = 0  # nobody waits for these
    stays = sum(not w.draining for w in workers) + coming
    return len(workers) - gone + coming, stays


def _gone(at: RolloutState, revision: str, undrain: list[str]) -> int:
    """Return how many workers of a revision its Deployment can do without by now."""
    mine = [w for w in at.workers if w.revision == revision]
    removable = [w for w in mine if w.removable and w.id not in undrain]
    if len(removable) == sum(w.draining for w in mine):
        return len(removable)
    granted = max(0, len(mine) - at.sizes.get(revision, len(mine)))
    return min(len(removable), granted)
