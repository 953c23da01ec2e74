"""One volume for each claim of a pod, however many of its parts lie on that claim. Pure.

Model, draft, adapters and a tier may share a claim. Where one has two volumes in a pod, kubelets
wait for ever for the second, and say so nowhere (kubernetes/kubernetes#122140 taught newer ones).
"""

from penstock_operator.manifests.objects import Object

CLAIM = "persistentVolumeClaim"


def one_volume_per_claim(spec: Object) -> Object:
    """Return a pod's spec with every claim in one volume; everything is mounted where it was."""
    volumes: dict[str, Object] = {}
    holder: dict[str, str] = {}
    for volume in spec["volumes"]:
        name, claim = volume["name"], volume.get(CLAIM)
        first = name if claim is None else _first(volumes, claim["claimName"], name)
        volumes[first] = _shared(volumes[first], volume) if first in volumes else volume
        holder[name] = first
    found = {**spec, "volumes": list(volumes.values())}
    for part in ("initContainers", "containers"):
        if part in spec:
            found[part] = [_mounting(one, holder) for one in spec[part]]
    return found


def _first(volumes: dict[str, Object], claim: str, otherwise: str) -> str:
    """Return the volume that has a claim already, else the one that is to have it."""
    names = (name for name, one in volumes.items() if one.get(CLAIM, {}).get("claimName") == claim)
    return next(names, otherwise)


def _shared(volume: Object, other: Object) -> Object:
    """Return a volume that two may use: read-only if both only read; each mount says it, too."""
    read_only = all(one[CLAIM].get("readOnly", False) for one in (volume, other))
    return {**volume, CLAIM: {**volume[CLAIM], "readOnly": read_only}}


def _mounting(container: Object, holder: dict[str, str]) -> Object:
    mounts = [{**mount, "name": holder[mount["name"]]} for mount in container["volumeMounts"]]
    return {**container, "volumeMounts": mounts}
