"""How a model gets into a pod: the volume that holds it, and the step that downloads it.

`pvc://` and `oci://` are mounted as they are. `hf://` and `s3://` are downloaded by an init
container into the cache claim, where the next pod finds them, or into the pod itself. Credentials
are seen by that container alone, and only those that its source needs.
"""

from dataclasses import dataclass

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.unsupported import Unsupported

MODELS = "/models"
DOWNLOAD = "download"
"""Name of the container that fetches a model."""
FIELD = "spec.model.uri"
POD_LIMIT = "256Gi"
"""Of the node's disk that a model in a pod may take, where no `ephemeral-storage` limit says."""
CREDENTIALS = {
    "hf": (("HF_TOKEN",), ("HF_ENDPOINT",)),
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"),
    ),
}
"""Keys of the Secret that a source must find, and those that it may find, by scheme."""


@dataclass(frozen=True)
class Source:
    """Where a worker finds its model, the volume under /models, and how it gets filled."""

    path: str
    volume: Object | None
    """None: the image carries the model."""
    arguments: tuple[str, ...] = ()
    """Command line of the download; empty: nothing to download."""


def source(deployment: InferenceDeployment, pool: EnginePool) -> Source:
    """Return how a deployment's model gets into the pods of a pool.

    Raises:
        Unsupported: not from there, in a cluster.
    """
    model = deployment.spec.model
    scheme, _, rest = model.uri.partition("://")
    if scheme == "pvc":
        claim, *folder = _parts(rest, FIELD)
        return Source(_inside("/".join(folder)), _volume(_claim(claim, read_only=True)))
    if scheme == "oci":
        image = {"reference": rest, "pullPolicy": "IfNotPresent"}
        return Source(MODELS, _volume({"image": image}))
    if scheme == "file":
        return _carried(deployment, rest)
    path = _inside(fetched_folder(deployment))
    arguments = (model.uri, "--revision", model.revision, "--into", path)
    if model.cache is None:
        limit = pool.spec.resources.limits.get("ephemeral-storage", POD_LIMIT)
        return Source(path, _volume({"emptyDir": {"sizeLimit": str(limit)}}), arguments)
    return Source(path, _volume(_claim(model.cache.claim_name, read_only=False)), arguments)


def fetched_folder(deployment: InferenceDeployment) -> str:
    """Return the folder of a downloaded model, relative to the cache: one per source and revision.

    Raises:
        Unsupported: the model's name or revision cannot be part of a path.
    """
    model = deployment.spec.model
    scheme, _, rest = model.uri.partition("://")
    if "@" in model.revision:
        raise Unsupported("spec.model.revision", "must not contain @")
    revision = "/".join(_parts(model.revision, "spec.model.revision"))
    return f"{'/'.join([scheme, *_parts(rest, FIELD)])}@{revision}"


def download(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> Object | None:
    """Return the init container that downloads a deployment's model; None where none is needed."""
    arguments = source(deployment, pool).arguments
    if not arguments:
        return None
    # Proxies and certificates are needed here as much as in the worker.
    fixed = {"HOME": "/tmp", **pool.spec.template.env}  # noqa: S108 - the container's own
    environment: list[Object] = [{"name": k, "value": v} for k, v in sorted(fixed.items())]
    return {
        "name": DOWNLOAD,
        "image": settings.worker_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["penstock-worker", "fetch"],
        "args": list(arguments),
        "env": environment + _credentials(deployment),
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


def _credentials(deployment: InferenceDeployment) -> list[Object]:
    """Return the variables that come from the Secret; a missing one keeps the pod from starting."""
    model = deployment.spec.model
    if model.secret_ref is None:
        return []
    needed, possible = CREDENTIALS[model.uri.partition("://")[0]]
    return [
        {
            "name": key,
            "valueFrom": {
                "secretKeyRef": {
                    "name": model.secret_ref.name,
                    "key": key,
                    "optional": key in possible,
                }
            },
        }
        for key in (*needed, *possible)
    ]


def _volume(content: Object) -> Object:
    return {"name": "model", **content}


def _claim(name: str, *, read_only: bool) -> Object:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": read_only}}


def _inside(folder: str) -> str:
    return f"{MODELS}/{folder}".rstrip("/")


def _parts(name: str, field: str) -> list[str]:
    """Return the path segments of a name; `..` and the like would leave the volume."""
    parts = [part for part in name.split("/") if part]
    if not parts or any(part.startswith(".") for part in parts):
        raise Unsupported(field, "must name something, and no segment may begin with a dot")
    return parts
