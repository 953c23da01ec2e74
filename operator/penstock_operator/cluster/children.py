"""Bringing the objects around workers and pools in line with what is planned. Pure."""

from collections.abc import Iterable

from penstock_operator.cluster.actions import Action, Apply
from penstock_operator.cluster.compare import missing
from penstock_operator.cluster.observed import Observed
from penstock_operator.cluster.ownership import Owner, obstacle, owned
from penstock_operator.manifests import Object, Unserved, for_cluster
from penstock_operator.snapshot import Obstacle


def children(
    observed: Observed, planned: Iterable[Object], owner: Owner
) -> tuple[list[Action], Obstacle | None]:
    """Return what makes children right, and what is in the way of one.

    Kinds that the cluster does not serve are left out: they are all there only to help.
    """
    actions: list[Action] = []
    held: Obstacle | None = None
    for wanted in planned:
        try:
            body = owned(for_cluster(wanted, observed.served), owner)
        except Unserved:
            continue
        kind, name = body["kind"], body["metadata"]["name"]
        there = observed.children.get((kind, name))
        if there is None:
            actions.append(Apply(body, f"{kind} {name} is not there", new=True))
        elif found := obstacle(there, owner):
            held = held or found
        elif wrong := missing(there, body):
            actions.append(Apply(body, f"{kind} {name}: {', '.join(wrong[:4])} differs"))
    return actions, held
