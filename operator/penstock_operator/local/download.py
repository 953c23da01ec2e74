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
from penstock_operator.manifests.sources import fetched_folder

SCHEMES = ("hf://", "s3://")
SAYS = "penstock-worker fetch: "
"""What every line of the program begins with."""
Show = Callable[[str], None]


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return where downloaded models are kept."""
    root = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root).absolute() / "penstock" / "models"


def fetched(deployment: InferenceDeployment, cache: Path, show: Show) -> InferenceDeployment:
    """Return the deployment with its model on this machine.

    Credentials are taken from this process's environment, as HF_TOKEN or AWS_ACCESS_KEY_ID.

    Raises:
        UserError: the model cannot be had.
    """
    model = deployment.spec.model
    if not model.uri.startswith(SCHEMES):
        return deployment
    where = f"InferenceDeployment {deployment.metadata.name}: spec.model.uri"
    try:
        folder = cache / fetched_folder(deployment)
    except Unsupported as error:
        raise UserError(str(error)) from None
    argv = [executable("penstock-worker"), "fetch", model.uri, "--revision", model.revision]
    with subprocess.Popen(
        [*argv, "--into", folder], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        last = ""
        for line in process.stderr or ():
            last = line.strip().removeprefix(SAYS)
            if process.poll() is None:
                show(f"  {last}")
    if process.returncode:
        raise UserError(f"{where}: {last}")
    model = model.model_copy(update={"uri": f"file://{folder}"})
    spec = deployment.spec.model_copy(update={"model": model})
    return deployment.model_copy(update={"spec": spec})
