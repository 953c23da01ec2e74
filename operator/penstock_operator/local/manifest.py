"""Reading a manifest for the local runtime: what the API server would check, and what this machine
needs on top: a model that is here.
"""

from dataclasses import dataclass
from pathlib import Path

from penstock_contract.api import EngineType, InferenceDeployment, Tenant
from penstock_operator.local.errors import UserError
from penstock_operator.validation import InvalidManifest, load_manifests

FILE = "file://"


@dataclass(frozen=True)
class Wishes:
    """What a manifest asks for."""

    deployments: list[InferenceDeployment]
    """With absolute model folders."""
    tenants: list[Tenant]


def read_manifest(file: Path) -> Wishes:
    """Return what a YAML file asks for.

    Raises:
        UserError: no such file, no YAML, or not valid; it names the field and the fix.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {file}: {reason}") from None
    try:
        found = load_manifests(text, str(file))
    except InvalidManifest as error:
        raise UserError(str(error)) from None
    others = [m for m in found if not isinstance(m, InferenceDeployment | Tenant)]
    if others:
        name = f"{others[0].kind} {others[0].metadata.name}"
        raise UserError(f"{file}: {name}: pools are made from InferenceDeployments; take it out")
    folder = file.absolute().parent
    deployments = [_anchored(d, folder) for d in found if isinstance(d, InferenceDeployment)]
    return Wishes(deployments, [tenant for tenant in found if isinstance(tenant, Tenant)])


def check_tenants(tenants: list[Tenant]) -> list[Tenant]:
    """Return the tenants, once it is clear that this machine has their keys.

    Raises:
        UserError: it has not.
    """
    for tenant in tenants:
        for index, key in enumerate(tenant.spec.api_keys):
            if key.sha256 is None:
                raise UserError(
                    f"Tenant {tenant.metadata.name}: spec.apiKeys[{index}].name: there are no "
                    "Secrets on this machine; give sha256 (penstock tenant new-key prints one)"
                )
    return tenants


def check_models(deployments: list[InferenceDeployment]) -> list[InferenceDeployment]:
    """Return the deployments, once it is clear that this machine can run them.

    Raises:
        UserError: it cannot.
    """
    for deployment in deployments:
        _check(deployment)
    return deployments


def check_engines(
    deployments: list[InferenceDeployment], vllm_venv: Path | None
) -> list[InferenceDeployment]:
    """Return the deployments, once it is clear that this machine has their engines.

    Raises:
        UserError: it has not.
    """
    for deployment in deployments:
        if deployment.spec.engine.type is not EngineType.VLLM:
            continue
        where = f"InferenceDeployment {deployment.metadata.name}: spec.engine.type: VLLM"
        if vllm_venv is None:
            raise UserError(f"{where} needs --vllm-venv, a virtual environment with vLLM in it")
        if not (vllm_venv / "bin" / "vllm").is_file():
            raise UserError(f"{where}: there is no bin/vllm in {vllm_venv}")
    return deployments


def model_folder(deployment: InferenceDeployment) -> Path:
    """Return where the model of an anchored deployment lies."""
    return Path(deployment.spec.model.uri.removeprefix(FILE))


def missing_model(deployment: InferenceDeployment) -> str:
    """Return why the model of an anchored deployment cannot be loaded; nothing when it is there."""
    folder = model_folder(deployment)
    if (folder / "config.json").is_file():
        return ""
    return (
        f"there is no model in {folder} (a folder with config.json, tokenizer.json and "
        "*.safetensors is expected)"
    )


def _anchored(deployment: InferenceDeployment, folder: Path) -> InferenceDeployment:
    """Make a relative `file://./model` absolute: the runtime has another working directory."""
    model = deployment.spec.model
    if not model.uri.startswith(FILE):
        return deployment
    path = (folder / model.uri.removeprefix(FILE)).resolve()
    model = model.model_copy(update={"uri": f"{FILE}{path}"})
    spec = deployment.spec.model_copy(update={"model": model})
    return deployment.model_copy(update={"spec": spec})


def _check(deployment: InferenceDeployment) -> None:
    where = f"InferenceDeployment {deployment.metadata.name}"
    spec = deployment.spec
    if not spec.model.uri.startswith(FILE):
        raise UserError(
            f"{where}: spec.model.uri: {spec.model.uri} is not used locally; write hf://, s3://, "
            "or file://./folder relative to the manifest"
        )
    if missing := missing_model(deployment):
        raise UserError(f"{where}: spec.model.uri: {missing}")
