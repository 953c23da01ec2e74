"""Models that are not on this machine yet: fetched by the program that pods use, into a cache.

From then on such a deployment is one with a `file://` model, so nothing else needs to know.
"""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from penstock_contract.api import InferenceDeployment
from penstock_operator.local.errors import UserError
from penstock_operator.local.spawn import executable
from penstock_operator.manifests import Unsupported
from penstock_operator.manifests.adapters import wanted_adapters
from penstock_operator.manifests.draft import with_draft_at
from penstock_operator.manifests.sources import Wanted, fetched_folder, wanted_model

SCHEMES = ("hf://", "s3://", "gs://")
SAYS = "penstock-worker fetch: "
"""What every line of the program begins with."""
Show = Callable[[str], None]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return where downloaded models are kept."""
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "penstock" / "models"


def fetched(deployment: InferenceDeployment, cache: Path, show: Show) -> InferenceDeployment:
    """Return the deployment with its model, draft and adapters on this machine.

    Credentials are taken from this process's environment, such as HF_TOKEN.

    Raises:
        UserError: one of them cannot be had.
    """
    where = f"InferenceDeployment {deployment.metadata.name}: "
    model = deployment.spec.model
    model = model.model_copy(
        update={
            "uri": _fetched(wanted_model(deployment), cache, show, where),
            "adapters": [
                adapter.model_copy(
                    update={"uri": _fetched(wanted, cache, show, where, "--adapter")}
                )
                for adapter, wanted in zip(
                    model.adapters, wanted_adapters(deployment).values(), strict=True
                )
            ],
        }
    )
    spec = deployment.spec.model_copy(update={"model": model})
    deployment = deployment.model_copy(update={"spec": spec})
    return with_draft_at(deployment, lambda draft: _fetched(draft, cache, show, where))


def _fetched(wanted: Wanted, cache: Path, show: Show, where: str, *flags: str) -> str:
    """Return the URI of files on this machine, as they are or once they are fetched."""
    if not wanted.uri.startswith(SCHEMES):
        return wanted.uri
    try:
        folder = cache / fetched_folder(wanted)
    except Unsupported as error:
        raise UserError(str(error)) from None
    argv = [executable("penstock-worker"), "fetch", wanted.uri, "--revision", wanted.revision]
    with subprocess.Popen(
        [*argv, "--into", folder, *flags],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        last = ""
        for line in process.stderr or ():
            last = line.strip().removeprefix(SAYS)
            if process.poll() is None:
                show(f"  {last}")
    if process.returncode:
        raise UserError(f"{where}{wanted.field}.uri: {last}")
    return f"file://{folder}"
