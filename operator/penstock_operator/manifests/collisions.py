"""What a pool may not ask of its pods: what is there already, or cannot be. Pure.

Names are reserved whether or not this pool's pods have them: an adapter that is added later must
not break a template.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from penstock_contract import group, handoff, worker_token
from penstock_contract.adapters import AGENT
from penstock_contract.adapters import PORT as AGENT_PORT
from penstock_contract.api import EnginePool, EngineType, InferenceDeployment
from penstock_contract.api.accelerators import misspelt
from penstock_contract.api.base import quantity
from penstock_contract.api.pod_template import Container, PodTemplate, VolumeMount
from penstock_contract.api.pool import Resources
from penstock_contract.worker_pod import CONTAINER
from penstock_operator.manifests.adapters import ADAPTER_DOWNLOAD, ADAPTERS
from penstock_operator.manifests.additions import confined, pod_security
from penstock_operator.manifests.draft import DRAFT, DRAFT_DOWNLOAD
from penstock_operator.manifests.engine import LEADER_IP, NODE_RANK, PORT
from penstock_operator.manifests.metadata import wrong_metadata
from penstock_operator.manifests.penstock import TIER
from penstock_operator.manifests.sources import DOWNLOAD, MODELS
from penstock_operator.manifests.unsupported import Unsupported
from penstock_operator.manifests.vllm import HOST_IP as VLLM_HOST_IP

VOLUMES = re.compile(r"model|tmp|kv|shm|draft|adapters|adapter-\d+")
CONTAINERS = re.compile(rf"{CONTAINER}|{AGENT}|{DOWNLOAD}|{DRAFT_DOWNLOAD}|{ADAPTER_DOWNLOAD}\d+")
PORTS = {PORT: "http", AGENT_PORT: AGENT, handoff.PORT: "kv", group.PORT: ""}
"""By number, with the names that they have in pods."""
FOLDERS = (MODELS, ADAPTERS, DRAFT, TIER, "/dev/shm")  # noqa: S108 - the container's own
TMP = "tmp"
"""The volume of the worker's /tmp, which others may share."""

Clashes = Iterator[tuple[str, str]]
"""The path of a field below the pool, and what is wrong with it and what to do."""


def refuse_clashes(deployment: InferenceDeployment, pool: EnginePool) -> None:
    """Raise Unsupported for the first thing that a pool's pods cannot have."""
    template = pool.spec.template
    found = chain(
        wrong_metadata(template),
        _resources(pool),
        _amounts(pool.spec.resources),
        _volumes(template),
        _mounts(deployment, template),
        _containers(template),
        _variables(deployment, pool),
        _claims(pool),
        _rights(template),
    )
    for field, fix in found:
        raise Unsupported(f"spec.pools[{pool.spec.pool}].{field}", fix)


def _resources(pool: EnginePool) -> Clashes:
    for where in ("limits", "requests"):
        for name in getattr(pool.spec.resources, where):
            if wrong := misspelt(name):
                yield f"resources.{where}[{name}]", wrong


def _amounts(resources: Resources) -> Clashes:
    """What no API server takes in a pod, and would only tell of once a pod is made."""
    for name, most in resources.limits.items():
        if "/" in name and quantity(most) % 1:
            yield f"resources.limits[{name}]", f"{most} is no whole number; use one"
    for name, asked in resources.requests.items():
        field, limit = f"resources.requests[{name}]", resources.limits.get(name)
        if "/" in name and (limit is None or quantity(limit) != quantity(asked)):
            yield field, f"leave it out, and set resources.limits[{name}], which is requested, too"
        elif limit is not None and quantity(asked) > quantity(limit):
            yield field, f"{asked} is more than the limit, {limit}; use no more than that"


def _volumes(template: PodTemplate) -> Clashes:
    names = [volume.name for volume in template.volumes]
    yield from _twice("template.volumes", names)
    for index, name in enumerate(names):
        if VOLUMES.fullmatch(name):
            yield f"template.volumes[{index}].name", f"{name} is a volume of Penstock's; rename it"


def _mounts(deployment: InferenceDeployment, template: PodTemplate) -> Clashes:
    known = {volume.name for volume in template.volumes}
    own = {TMP} if deployment.spec.model.uri.startswith("file://") else {TMP, "model"}
    yield from _wrong_mounts("template", template.volume_mounts, known)
    for index, mount in enumerate(template.volume_mounts):
        field = f"template.volumeMounts[{index}].mountPath"
        if ".." in mount.mount_path.split("/"):
            yield field, "must not contain .."
        if taken := _taken(mount.mount_path):
            yield field, f"{taken} is where Penstock mounts what it needs; choose another folder"
    for field, container in _all(template):
        yield from _wrong_mounts(field, container.volume_mounts, known | own)


def _wrong_mounts(field: str, mounts: list[VolumeMount], known: set[str]) -> Clashes:
    yield from _twice(f"{field}.volumeMounts", [one.mount_path for one in mounts])
    for index, mount in enumerate(mounts):
        if mount.name not in known:
            fix = f"there is no volume {mount.name}; add it to template.volumes"
            yield f"{field}.volumeMounts[{index}].name", fix


def _taken(path: str) -> str:
    """Return the folder of Penstock's that a mount would hide or lie in; empty: none.

    In /tmp there may be others: a kept cache of compiled kernels, for example.
    """
    wanted = "".join(f"/{part}" for part in path.split("/") if part not in ("", "."))
    inside = (own for own in FOLDERS if f"{wanted}/".startswith(f"{own}/"))
    over = (own for own in (*FOLDERS, "/tmp") if f"{own}/".startswith(f"{wanted}/"))  # noqa: S108
    return next(chain(inside, over), "")


def _containers(template: PodTemplate) -> Clashes:
    yield from _twice("template", [container.name for _, container in _all(template)])
    ports: set[int] = set()
    for field, container in _all(template):
        if CONTAINERS.fullmatch(container.name):
            yield f"{field}.name", f"{container.name} is a container of Penstock's; rename it"
        if "restartPolicy" in (container.model_extra or {}):
            fix = "take it out: sidecars are restarted always, and go to template.sidecars"
            yield f"{field}.restartPolicy", fix
        if not field.startswith("template.sidecars"):
            continue  # what runs before the worker may use its ports
        for index, port in enumerate(container.ports):
            at = f"{field}.ports[{index}]"
            if port.container_port in PORTS or port.container_port in ports:
                whose = "Penstock" if port.container_port in PORTS else "another sidecar"
                yield f"{at}.containerPort", f"{whose} listens there; choose another port"
            if port.name and port.name in PORTS.values():
                yield f"{at}.name", f"{port.name} is the name of a port of Penstock's; rename it"
            ports.add(port.container_port)


def _variables(deployment: InferenceDeployment, pool: EnginePool) -> Clashes:
    template = pool.spec.template
    reserved = {worker_token.ENVIRONMENT, worker_token.VLLM_ENVIRONMENT}
    if pool.spec.parallelism.nodes > 1:
        reserved |= {LEADER_IP, NODE_RANK}
        vllm = deployment.spec.engine.type is EngineType.VLLM
        reserved |= {VLLM_HOST_IP} if vllm else set()
    for where, names in (("env", template.env), ("envValueFrom", template.env_value_from)):
        for name in reserved & set(names):
            yield f"template.{where}[{name}]", "Penstock sets it itself; take it out"
    for name in template.env.keys() & template.env_value_from.keys():
        yield f"template.envValueFrom[{name}]", "template.env has it, too; keep one of them"


def _claims(pool: EnginePool) -> Clashes:
    used = [claim.name for claim in pool.spec.resources.claims]
    yield from _twice("resources.claims", used)
    known = [claim.name for claim in pool.spec.template.resource_claims]
    yield from _twice("template.resourceClaims", known)
    for index, name in enumerate(used):
        if name not in known:
            fix = f"there is no claim {name}; add it to template.resourceClaims"
            yield f"resources.claims[{index}].name", fix
    beside = {name for _, one in _all(pool.spec.template) for name in _claimed(one)}
    for index, name in enumerate(known):
        if name not in used and name not in beside:
            fix = "no container uses it; name it in resources.claims"
            yield f"template.resourceClaims[{index}]", fix


def _claimed(container: Container) -> Iterator[str]:
    resources = (container.model_extra or {}).get("resources")
    claims = resources.get("claims") if isinstance(resources, dict) else None
    for claim in claims if isinstance(claims, list) else []:
        if isinstance(claim, dict) and isinstance(claim.get("name"), str):
            yield claim["name"]


def _rights(template: PodTemplate) -> Clashes:
    """Yield what kubelets or API servers refuse only once the pod is there."""
    own = template.container_security_context or {}
    said = "containerSecurityContext" if "runAsUser" in own else "securityContext"
    places = [(f"template.{said}", own)]
    for field, container in _all(template):
        of_it = (container.model_extra or {}).get("securityContext")
        places.append((f"{field}.securityContext", of_it if isinstance(of_it, dict) else {}))
    for field, rights in places:
        found = pod_security(template) | confined(template, rights)
        if found["runAsNonRoot"] is True and found["runAsUser"] == 0:
            yield f"{field}.runAsUser", "root's needs runAsNonRoot: false beside it"
    of_worker = confined(template, own)
    if of_worker["allowPrivilegeEscalation"] is False and of_worker.get("privileged") is True:
        fix = "needs allowPrivilegeEscalation: true beside it"
        yield "template.containerSecurityContext.privileged", fix


def _all(template: PodTemplate) -> Iterator[tuple[str, Container]]:
    """Yield the containers that a template adds, with the paths of their fields."""
    for where in ("init_containers", "sidecars"):
        name = "initContainers" if where == "init_containers" else where
        for index, container in enumerate(getattr(template, where)):
            yield f"template.{name}[{index}]", container


def _twice(field: str, names: list[str]) -> Clashes:
    for name, count in Counter(names).items():
        if count > 1:
            yield field, f"{name} is there twice; keep or rename one of them"
