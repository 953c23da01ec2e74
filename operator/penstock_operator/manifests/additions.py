"""What a pool's template adds to its pods: containers, volumes, variables, rights, claims. Pure.

What may not be added is refused before (collisions.py); here it is only put in its place.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from penstock_contract.api import ApiModel, EnginePool
from penstock_contract.api.pod_template import Container, PodTemplate
from penstock_contract.labels import ROLLOUT_HASH
from penstock_operator.manifests.objects import Object, pool_selector

USER = 10001


def as_in_a_pod(part: ApiModel) -> Object:
    """Return a part of a template as a pod has it."""
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def pod_security(template: PodTemplate) -> Object:
    """Return the pod's security context: `restricted`, but for what the template says."""
    default = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # A cache of terabytes is not walked through at every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return _merged(default, template.security_context or {})


def confined(template: PodTemplate, own: Mapping[str, Any] | None = None) -> Object:
    """Return a container's security context: `restricted`, but for what is said of its own.

    Whether it may be root is the pod's default, which the template may have changed.
    """
    default = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": pod_security(template)["runAsNonRoot"],
        "capabilities": {"drop": ["ALL"]},
    }
    return _merged(default, own or {})


def _merged(default: Mapping[str, Any], own: Mapping[str, Any]) -> Object:
    """Return a mapping with what another says, maps in it merged in the same way."""
    found = dict(default)
    for key, value in own.items():
        inner = found.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            found[key] = _merged(inner, value)
        else:
            found[key] = value
    return found


def variables(template: PodTemplate) -> list[Object]:
    """Return the environment variables whose values are read from elsewhere."""
    found = sorted(template.env_value_from.items())
    return [{"name": name, "valueFrom": as_in_a_pod(source)} for name, source in found]


def seen_by_all(template: PodTemplate) -> Object:
    """Return what the worker and what downloads for it have in common, beside `env`."""
    mounts = [as_in_a_pod(one) for one in template.volume_mounts]
    return {"envFrom": [as_in_a_pod(one) for one in template.env_from], "volumeMounts": mounts}


def sharing(container: Object, template: PodTemplate) -> Object:
    """Return a container of Penstock's with what the template adds to all of these."""
    env = {one["name"]: one for one in (*container["env"], *variables(template))}
    shared = seen_by_all(template)
    found = {
        **container,
        "env": list(env.values()),
        "volumeMounts": [*container["volumeMounts"], *shared["volumeMounts"]],
    }
    return {**found, "envFrom": shared["envFrom"]} if shared["envFrom"] else found


def initial(template: PodTemplate) -> list[Object]:
    """Return the template's containers that start before the worker, in their order.

    Sidecars come first, for the others may need them: a proxy, for example.
    """
    sidecars = _own(template, template.sidecars)
    stay = [{**one, "restartPolicy": "Always"} for one in sidecars]
    return [*stay, *_own(template, template.init_containers)]


def _own(template: PodTemplate, containers: Iterable[Container]) -> list[Object]:
    found = []
    for container in containers:
        made = {"volumeMounts": [], **as_in_a_pod(container)}
        said = made.get("securityContext")
        own = {"readOnlyRootFilesystem": False, **(said if isinstance(said, dict) else {})}
        made["securityContext"] = confined(template, own)
        # The last words of one that fails become the message of a condition.
        found.append({"terminationMessagePolicy": "FallbackToLogsOnError", **made})
    return found


def overlay(pool: EnginePool) -> Object:
    """Return the fields of a pod that the template sets, apart from labels and annotations."""
    template = pool.spec.template
    fields = {
        "nodeSelector": template.node_selector,
        "tolerations": template.tolerations,
        "affinity": template.affinity,
        "topologySpreadConstraints": _spread(pool),
        "schedulerName": template.scheduler_name,
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": [{"name": one.name} for one in template.image_pull_secrets],
        "resourceClaims": [as_in_a_pod(one) for one in template.resource_claims],
        "hostNetwork": template.host_network,
        # Names of Services are found from a node's network, too.
        "dnsPolicy": "ClusterFirstWithHostNet" if template.host_network else None,
    }
    return {name: value for name, value in fields.items() if value}


def _spread(pool: EnginePool) -> list[Object]:
    """Return the constraints; one that counts no pods would spread none."""
    mine = {**pool_selector(pool), ROLLOUT_HASH: pool.spec.rollout_hash}
    default = {"labelSelector": {"matchLabels": mine}}
    return [default | one for one in pool.spec.template.topology_spread_constraints]
