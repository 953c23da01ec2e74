"""How a model gets into a pod: the volume that holds it, and the step that downloads it.

Adapters get there in the same ways (see adapters.py).

`pvc://` and `oci://` are mounted as they are. `hf://`, `s3://` and `gs://` are downloaded by an
init container into the cache claim, where the next pod finds them, or into the pod itself.
Credentials of a Secret are seen by that container alone, and only those that its source needs; an
identity that a cloud gives to the ServiceAccount is the whole pod's.
"""

import re
from dataclasses import dataclass

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.model import LocalRef
from penstock_operator.manifests.objects import Object
from penstock_operator.manifests.settings import Settings
from penstock_operator.manifests.unsupported import Unsupported

MODELS = "/models"
DOWNLOAD = "download"
"""Name of the container that fetches a model."""
POD_LIMIT = "256Gi"
"""Of the node's disk that models in a pod may take, where no `ephemeral-storage` limit says."""
CREDENTIALS = {
    "hf": (("HF_TOKEN",), ("HF_ENDPOINT",)),
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"),
    ),
    "gs": ((), ()),
}
"""Keys of the Secret that a source must find, and those that it may find, by scheme."""
_ON_THE_HUB = re.compile(r"[^/@]+(/[^/@]+)?/?")


@dataclass(frozen=True)
class Wanted:
    """Files that a worker needs: its model, or an adapter."""

    uri: str
    revision: str
    field: str
    """Of the spec: what stands before `.uri` and `.revision` in a complaint."""
    volume: str
    """Name of the volume, where they need one."""
    mount: str
    """Where the worker sees it."""

    @property
    def scheme(self) -> str:
        """Where they come from."""
        return self.uri.partition("://")[0]

    @property
    def rest(self) -> str:
        """Return the URI without its scheme."""
        return self.uri.partition("://")[2]


@dataclass(frozen=True)
class Source:
    """Where a worker finds its model, the volume that holds it, and how it gets filled."""

    path: str
    volume: Object | None
    """None: the image carries the model."""
    mount: str = MODELS
    """Where the worker sees the volume."""
    arguments: tuple[str, ...] = ()
    """Command line of the download; empty: nothing to download."""


def source(deployment: InferenceDeployment, pool: EnginePool) -> Source:
    """Return how a deployment's model gets into the pods of a pool.

    Raises:
        Unsupported: not from there, in a cluster.
    """
    return placed(wanted_model(deployment), deployment, pool)


def wanted_model(deployment: InferenceDeployment) -> Wanted:
    """Return the files of a deployment's model."""
    model = deployment.spec.model
    return Wanted(model.uri, model.revision, "spec.model", "model", MODELS)


def placed(wanted: Wanted, deployment: InferenceDeployment, pool: EnginePool) -> Source:
    """Return how files get into the pods of a pool.

    Raises:
        Unsupported: not from there, in a cluster.
    """
    if wanted.scheme == "pvc":
        if wanted.rest.startswith("/"):
            raise Unsupported(f"{wanted.field}.uri", "must name a claim: pvc://CLAIM/FOLDER")
        claim, *inside = _parts(wanted.rest, f"{wanted.field}.uri")
        return _mounted(wanted, "/".join(inside), _claim(claim, read_only=True))
    if wanted.scheme == "oci":
        image = {"reference": wanted.rest, "pullPolicy": "IfNotPresent"}
        return _mounted(wanted, "", {"image": image})
    if wanted.scheme == "file":
        return _carried(wanted, deployment)
    folder = fetched_folder(wanted)
    into = f"{wanted.mount}/{folder}"
    arguments = (wanted.uri, "--revision", wanted.revision, "--into", into)
    return _mounted(wanted, folder, cached(deployment, pool), arguments)


def cached(deployment: InferenceDeployment, pool: EnginePool) -> Object:
    """Return the content of the volume that downloads go into: the cache, or the pod's own."""
    cache = deployment.spec.model.cache
    if cache is not None:
        return _claim(cache.claim_name, read_only=False)
    limit = pool.spec.resources.limits.get("ephemeral-storage", POD_LIMIT)
    return {"emptyDir": {"sizeLimit": str(limit)}}


def fetched_folder(wanted: Wanted) -> str:
    """Return the folder of downloaded files, relative to the cache: one per source and revision.

    Raises:
        Unsupported: name or revision cannot be part of a path, or no bucket is named.
    """
    field, named = f"{wanted.field}.revision", f"{wanted.field}.uri"
    if "@" in wanted.revision:
        raise Unsupported(field, "must not contain @")
    if wanted.scheme in ("s3", "gs") and wanted.rest.startswith("/"):
        raise Unsupported(named, f"must name a bucket: {wanted.scheme}://BUCKET/PREFIX")
    revision = "/".join(_parts(wanted.revision, field))
    name = "/".join([wanted.scheme, *_parts(wanted.rest, named)])
    if wanted.scheme == "hf" and not _ON_THE_HUB.fullmatch(wanted.rest):
        raise Unsupported(named, f"must be hf://ORG/NAME alone; a revision goes into {field}")
    return f"{name}@{revision}"


def download(
    deployment: InferenceDeployment, pool: EnginePool, settings: Settings
) -> Object | None:
    """Return the init container that downloads a deployment's model; None where none is needed."""
    found, model = source(deployment, pool), deployment.spec.model
    if not found.arguments:
        return None
    needed, possible = CREDENTIALS[wanted_model(deployment).scheme]
    if model.service_account_name is not None:  # it may be who asks
        needed, possible = (), needed + possible
    secret = credentials(model.secret_ref, needed, possible)
    return downloading(DOWNLOAD, found, pool, settings, secret)


def downloading(
    name: str, found: Source, pool: EnginePool, settings: Settings, secret: list[Object]
) -> Object:
    """Return the init container that downloads what a source says."""
    # Proxies and certificates are needed here as much as in the worker.
    fixed = {"HOME": "/tmp", **pool.spec.template.env}  # noqa: S108 - the container's own
    environment: list[Object] = [{"name": k, "value": v} for k, v in sorted(fixed.items())]
    return {
        "name": name,
        "image": settings.worker_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["penstock-worker", "fetch"],
        "args": list(found.arguments),
        "env": environment + secret,
        "resources": {
            "limits": {"cpu": "2", "memory": "1Gi"},
            "requests": {"cpu": "500m", "memory": "256Mi"},
        },
        # The last words of a failed download become the message of a condition.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            *([{"name": found.volume["name"], "mountPath": found.mount}] if found.volume else []),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _carried(wanted: Wanted, deployment: InferenceDeployment) -> Source:
    if not wanted.rest.startswith("/") or deployment.spec.engine.image is None:
        raise Unsupported(
            f"{wanted.field}.uri",
            "in a cluster, file:// is an absolute path inside spec.engine.image; "
            "set the image that carries it, or use pvc://, hf://, s3://, gs:// or oci://",
        )
    return Source(wanted.rest.rstrip("/"), None)


def credentials(
    secret: LocalRef | None, needed: tuple[str, ...], possible: tuple[str, ...]
) -> list[Object]:
    """Return the variables that come from a Secret; a needed one keeps the pod from starting."""
    if secret is None:
        return []
    return [
        {
            "name": key,
            "valueFrom": {
                "secretKeyRef": {
                    "name": secret.name,
                    "key": key,
                    "optional": key in possible,
                }
            },
        }
        for key in (*needed, *possible)
    ]


def _mounted(
    wanted: Wanted, folder: str, content: Object, arguments: tuple[str, ...] = ()
) -> Source:
    path = f"{wanted.mount}/{folder}".rstrip("/")
    return Source(path, {"name": wanted.volume, **content}, wanted.mount, arguments)


def _claim(name: str, *, read_only: bool) -> Object:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": read_only}}


def _parts(name: str, field: str) -> list[str]:
    """Return the path segments of a name; `..` and the like would leave the volume."""
    parts = [part for part in name.split("/") if part]
    if not parts or any(part.startswith(".") for part in parts):
        raise Unsupported(field, "must name something, and no segment may begin with a dot")
    return parts
