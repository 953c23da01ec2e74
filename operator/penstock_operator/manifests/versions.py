"""Which version of an API a cluster serves: current ones first, older ones where need be."""

from collections.abc import Collection

from penstock_operator.manifests.objects import Object

OLDER = {"policy/v1": "policy/v1beta1"}
"""What stands in before Kubernetes 1.21; the fields in use are the same."""


class Unserved(Exception):
    """The cluster does not serve a kind in any version that could be planned."""


def for_cluster(found: Object, served: Collection[str]) -> Object:
    """Return the object in an API version that the cluster serves.

    Args:
        found: as planned.
        served: kinds like `apps/v1/Deployment` and `v1/Service`.

    Raises:
        Unserved: no version of the kind is served.
    """
    wanted, kind = found["apiVersion"], found["kind"]
    for version in (wanted, OLDER.get(wanted)):
        if version and f"{version}/{kind}" in served:
            return {**found, "apiVersion": version}
    raise Unserved(f"the cluster does not serve {kind} in {wanted}")
