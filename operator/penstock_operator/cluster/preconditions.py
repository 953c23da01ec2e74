"""What is asked of the API server itself before an object is made or taken over.

The watches may be late, and show only what bears our labels. An object that is made for an owner
that is gone, or is about to leave its objects to the next one, would be collected; one that is
applied over somebody else's Service would redirect it.

It is asked for lists of one, because to list is what the operator may do: it reads no objects.
"""

from penstock_contract.conditions import Reason
from penstock_contract.labels import DEPLOYMENT, INSTANCE, LEADER, MANAGED_BY
from penstock_operator.cluster.api import CONFLICT, Api, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import ENGINE_POOL, INFERENCE_DEPLOYMENT, POD, Kind
from penstock_operator.manifests import Object
from penstock_operator.snapshot import Obstacle

OWNERS = {kind.name: kind for kind in (INFERENCE_DEPLOYMENT, ENGINE_POOL, POD)}


async def owner_stays(api: Api, namespace: str, reference: Object) -> None:
    """Return when the owner that a reference names is there, and is to stay.

    Raises:
        ApiError: it is not, or the API server cannot tell.
    """
    kind, name, uid = OWNERS[reference["kind"]], reference["name"], reference["uid"]
    found = [there["metadata"] for there in await _named(api, kind, namespace, name)]
    if not any(meta["uid"] == uid and "deletionTimestamp" not in meta for meta in found):
        raise ApiError(CONFLICT, f"{kind.name} {name} is going, or is another one by now")


async def in_the_way(api: Api, cache: Cache, key: Key, kind: Kind, body: Object) -> Obstacle | None:
    """Return whose object has the name of one that an InferenceDeployment needs; None: nobody's.

    Raises:
        ApiError: the API server cannot tell.
    """
    name = body["metadata"]["name"]
    whose = cache.owner(kind.name, key.namespace, name)
    if whose is not None and whose != key:
        words = (
            f"{kind.name} {name} belongs to InferenceDeployment {whose.name}; rename one of them"
        )
        return Obstacle(Reason.NAME_TAKEN, words)
    there = await _named(api, kind, key.namespace, name)
    if all(_is_ours(found, key, body) for found in there):
        return None
    words = (
        f"{kind.name} {name} is not Penstock's; rename one of them, or hand it over with the "
        f"labels {MANAGED_BY}=penstock and {DEPLOYMENT}={key.name}"
    )
    return Obstacle(Reason.NAME_TAKEN, words)


async def _named(api: Api, kind: Kind, namespace: str, name: str) -> list[Object]:
    found: list[Object] = (await api.list(kind, namespace, fields=f"metadata.name={name}"))["items"]
    return found


def _is_ours(there: Object, key: Key, body: Object) -> bool:
    """By its labels, or, where somebody took these away, by its owner."""
    labels = there["metadata"].get("labels") or {}
    owners = there["metadata"].get("ownerReferences") or []
    mine = {owner["uid"] for owner in body["metadata"]["ownerReferences"]}
    name = labels.get(INSTANCE if LEADER in labels else DEPLOYMENT)
    labelled = (labels.get(MANAGED_BY), name) == ("penstock", key.name)
    return labelled or any(owner["uid"] in mine for owner in owners)
