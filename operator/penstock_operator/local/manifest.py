"""Reading a manifest for the local runtime: what the API server would check, and what this machine
needs on top: a model that is here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from penstock_contract.api import EngineType, InferenceDeployment, Tenant
from penstock_contract.labels import API_VERSION
from penstock_operator.local.errors import UserError
from penstock_operator.manifests import Unsupported
from penstock_operator.manifests.adapters import local_adapters, wanted_adapters
from penstock_operator.manifests.collisions import refuse_clashes
from penstock_operator.manifests.draft import FIELD, wanted_draft, with_draft_at
from penstock_operator.manifests.sources import Wanted, placed, wanted_model
from penstock_operator.manifests.unsupported import refuse_unsupported
from penstock_operator.plan import plan
from penstock_operator.validation import InvalidManifest, load_manifests

FILE = "file://"
TOKENIZER = "tokenizer.json"
_OWN = ("config.json", TOKENIZER, "*.safetensors")
"""Files that our engine cannot do without."""


@dataclass(frozen=True)
class Declared:
    """What a manifest asks for."""

    deployments: list[InferenceDeployment]
    """With absolute model folders."""
    tenants: list[Tenant]
    others: list[str]
    """Kind and name of what only a cluster can make of it, such as a PersistentVolumeClaim."""


class NothingOfOurs(UserError):
    """A manifest is for others altogether.

    Args:
        file: the manifest.
        others: what it holds, by kind and name.
    """

    def __init__(self, file: Path, others: list[str]) -> None:
        super().__init__(f"{file} holds nothing of {API_VERSION}: {others[0]}")
        self.others = others


def read_manifest(file: Path) -> Declared:
    """Return what a YAML file asks for.

    Raises:
        NothingOfOurs: it is for others.
        UserError: no such file, no YAML, or not valid; it names the field and the fix.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {file}: {reason}") from None
    try:
        loaded = load_manifests(text, str(file))
    except InvalidManifest as error:
        raise UserError(str(error)) from None
    found = loaded.objects
    if not found:
        raise NothingOfOurs(file, loaded.others)
    pools = [m for m in found if not isinstance(m, InferenceDeployment | Tenant)]
    if pools:
        name = f"{pools[0].kind} {pools[0].metadata.name}"
        raise UserError(f"{file}: {name}: pools are made from InferenceDeployments; take it out")
    for kind in (InferenceDeployment, Tenant):
        names = [one.metadata.name for one in found if isinstance(one, kind)]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise UserError(f"{file}: {kind.__name__} {twice} is there twice; rename one of them")
    folder = file.absolute().parent
    deployments = [_anchored(d, folder) for d in found if isinstance(d, InferenceDeployment)]
    tenants = [tenant for tenant in found if isinstance(tenant, Tenant)]
    return Declared(deployments, tenants, loaded.others)


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


def check_supported(deployments: list[InferenceDeployment]) -> list[InferenceDeployment]:
    """Return the deployments, once it is clear that this version builds all that they ask for.

    In a cluster the operator says so in a condition; here nothing is to be fetched or stored for
    what cannot run.

    Raises:
        UserError: it does not; it names the field and the fix.
    """
    for deployment in deployments:
        try:
            for pool in plan(deployment, {}).pools:
                refuse_unsupported(deployment, pool)
                refuse_clashes(deployment, pool)
                for wanted in _files(deployment):
                    if wanted.scheme != "file":  # a folder of this machine, or of an image
                        placed(wanted, deployment, pool)
        except Unsupported as error:
            raise UserError(f"InferenceDeployment {deployment.metadata.name}: {error}") from None
    return deployments


_OF_PODS = (
    "envFrom", "envValueFrom", "volumes", "volumeMounts", "initContainers", "sidecars",
    "resourceClaims",
)  # fmt: skip
"""Fields of a pool's template that change what a worker finds, and that no process has."""


def left_to_clusters(deployments: list[InferenceDeployment]) -> list[str]:
    """Return what deployments ask for that only pods have: the field, in words for people."""
    return [
        f"InferenceDeployment {deployment.metadata.name}: "
        f"spec.pools[{pool.name}].template.{field} is left to clusters"
        for deployment in deployments
        for pool in deployment.spec.pools
        for field in _OF_PODS
        if pool.template.to_json().get(field)
    ]


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


def check_names(
    deployments: Iterable[InferenceDeployment], running: Iterable[InferenceDeployment]
) -> None:
    """See that no two deployments would answer to one name.

    Args:
        deployments: what is to be served.
        running: what is served already; of one that is in both, the new one counts.

    Raises:
        UserError: two would.
    """
    wanted = {deployment.metadata.name: deployment for deployment in (*running, *deployments)}
    holders: dict[str, str] = {}
    for name, deployment in wanted.items():
        model = deployment.spec.model
        adapters = [adapter.name for adapter in model.adapters]
        for served in {deployment.served_name, *model.aliases, *adapters}:
            if served in holders:
                raise UserError(
                    f"InferenceDeployment {name}: spec.model: the name {served!r} is that of "
                    f"{holders[served]}; set spec.model.name (or the alias) to another"
                )
            holders[served] = name


def missing_model(deployment: InferenceDeployment) -> str:
    """Return why the model of an anchored deployment cannot be loaded; nothing when it is there."""
    folder = model_folder(deployment)
    if missing := [file for file in _needed(deployment) if not any(folder.glob(file))]:
        return (
            f"spec.model.uri: there is no model in {folder} (a folder with config.json, "
            f"tokenizer.json and *.safetensors is expected; missing: {', '.join(missing)})"
        )
    for index, path in enumerate(local_adapters(deployment).values()):
        if not (Path(path) / "adapter_config.json").is_file():
            return (
                f"spec.model.adapters[{index}].uri: there is no adapter in {path} (a folder with "
                "adapter_config.json and adapter_model.safetensors is expected)"
            )
    head = deployment.spec.engine.speculative.method.is_head
    for draft in wanted_draft(deployment):
        needed = [file for file in _needed(deployment) if not head or file != TOKENIZER]
        if missing := [file for file in needed if not any(Path(draft.rest).glob(file))]:
            return f"{FIELD}.uri: there is no model in {draft.rest} (missing: {', '.join(missing)})"
    return ""


def _needed(deployment: InferenceDeployment) -> tuple[str, ...]:
    """Return patterns of files that the engine cannot do without; vLLM reads other forms, too."""
    own = deployment.spec.engine.type is EngineType.PENSTOCK
    return _OWN if own else ("config.json",)


def _anchored(deployment: InferenceDeployment, folder: Path) -> InferenceDeployment:
    """Make a relative `file://./model` absolute: the runtime has another working directory."""
    model = deployment.spec.model
    adapters = [
        adapter.model_copy(update={"uri": _absolute(adapter.uri, folder)})
        for adapter in model.adapters
    ]
    uri = _absolute(model.uri, folder)
    model = model.model_copy(update={"uri": uri, "adapters": adapters})
    spec = deployment.spec.model_copy(update={"model": model})
    deployment = deployment.model_copy(update={"spec": spec})
    return with_draft_at(deployment, lambda draft: _absolute(draft.uri, folder))


def _absolute(uri: str, folder: Path) -> str:
    if not uri.startswith(FILE):
        return uri
    return f"{FILE}{(folder / uri.removeprefix(FILE)).resolve()}"


def _files(deployment: InferenceDeployment) -> tuple[Wanted, ...]:
    """Return all that has to be there before a worker starts."""
    beside = (*wanted_adapters(deployment).values(), *wanted_draft(deployment))
    return (wanted_model(deployment), *beside)


def _check(deployment: InferenceDeployment) -> None:
    where = f"InferenceDeployment {deployment.metadata.name}"
    for wanted in _files(deployment):
        if wanted.scheme != "file":
            raise UserError(
                f"{where}: {wanted.field}.uri: {wanted.uri} is not used locally; write hf://, "
                "s3://, gs://, or file://./folder relative to the manifest"
            )
    if missing := missing_model(deployment):
        raise UserError(f"{where}: {missing}")
