"""How a model gets into a pod: the volume that holds it, and the step that downloads it.

`pvc://` and `oci://` are mounted as they are. `hf://` and `s3://` are downloaded by an init
container into the cache claim, where the next pod finds them, or into the pod itself. Credentials
are seen by that container alone.
"""

from dataclasses import dataclass

from penstock_contract.api import InferenceDeployment
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.unsupported import Unsupported

MODELS = "/models"
FIELD = "spec.model.uri"


@dataclass(frozen=True)
class Source:
    """Where a worker finds its model, the volume under /models, and how it gets filled."""

    path: str
    volume: Object | None
    """None: the image carries the model."""
    arguments: tuple[str, ...] = ()
    """Command line of the download; empty: nothing to download."""


def source(deployment: InferenceDeployment) -> Source:
    """Return how a deployment's model gets into its pods.

    Raises:
        Unsupported: not from there, in a cluster.
    """
    model = deployment.spec.model
    scheme, _, rest = model.uri.partition("://")
    if scheme == "pvc":
        claim, _, folder = rest.partition("/")
        return Source(_inside(folder), _volume(_claim(claim, read_only=True)))
    if scheme == "oci":
        image = {"reference": rest, "pullPolicy": "IfNotPresent"}
        return Source(MODELS, _volume({"image": image}))
    if scheme == "file":
        return _carried(deployment, rest)
    folder = "/".join([scheme, *_parts(rest), *_parts(model.revision)])
    path = _inside(folder)
    arguments = (model.uri, "--revision", model.revision, "--into", path)
    if model.cache is None:
        return Source(path, _volume({"emptyDir": {}}), arguments)
    return Source(path, _volume(_claim(model.cache.claim_name, read_only=False)), arguments)


def download(deployment: InferenceDeployment, settings: Settings) -> Object | None:
    """Return the init container that downloads a deployment's model; None where none is needed."""
    arguments = source(deployment).arguments
    if not arguments:
        return None
    secret = deployment.spec.model.secret_ref
    return {
        "name": "download",
        "image": settings.worker_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["penstock-worker", "fetch"],
        "args": list(arguments),
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the container's own
        "envFrom": [{"secretRef": {"name": secret.name}}] if secret else [],
        "resources": {
            "limits": {"cpu": "2", "memory": "1Gi"},
            "requests": {"cpu": "500m", "memory": "256Mi"},
        },
        # The last words of a failed download become the message of a condition.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "model", "mountPath": MODELS},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _carried(deployment: InferenceDeployment, path: str) -> Source:
    if not path.startswith("/") or deployment.spec.engine.image is None:
        raise Unsupported(
            FIELD,
            "in a cluster, file:// is an absolute path inside spec.engine.image; "
            "set the image that carries it, or use pvc://, hf://, s3:// or oci://",
        )
    return Source(path.rstrip("/"), None)


def _volume(content: Object) -> Object:
    return {"name": "model", **content}


def _claim(name: str, *, read_only: bool) -> Object:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": read_only}}


def _inside(folder: str) -> str:
    return f"{MODELS}/{folder}".rstrip("/")


def _parts(name: str) -> list[str]:
    """Return the path segments of a name; `..` and the like would leave the volume."""
    parts = [part for part in name.split("/") if part]
    if any(part.startswith(".") for part in parts):
        raise Unsupported(FIELD, "a segment must not begin with a dot")
    return parts
