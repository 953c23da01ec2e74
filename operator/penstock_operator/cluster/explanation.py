"""`penstock explain` in a cluster, with nothing but the user's own rights.

The operator knows why it decided as it did just now. It is asked through the API server's proxy, so
that no port has to be forwarded. Who may not do that, or cannot because the network keeps the API
server from the operator, gets what the resource's status holds, and is told what was missing.
"""

import asyncio
from dataclasses import dataclass

import httpx
from kubernetes.config import ConfigException, list_kube_config_contexts
from prometheus_client import CollectorRegistry

from penstock_contract.api import InferenceDeployment
from penstock_contract.labels import COMPONENT, NAME
from penstock_operator.autoscaling.explain import recount
from penstock_operator.cluster.api import SERVICE_ACCOUNT, Api, ApiError, configuration
from penstock_operator.cluster.kinds import INFERENCE_DEPLOYMENT, POD
from penstock_operator.cluster.metrics import OperatorMetrics
from penstock_operator.cluster.reading import read_deployment, read_status
from penstock_operator.local.errors import UserError
from penstock_operator.manifests import Object

OPERATORS = f"{NAME}=penstock,{COMPONENT}=operator"


@dataclass(frozen=True)
class Place:
    """Where to look. None: as the kubeconfig says."""

    context: str | None = None
    namespace: str | None = None
    system_namespace: str = "penstock-system"
    """Where the operator runs."""


class _Unasked(Exception):
    """No operator could be asked, and why."""


def explanation(place: Place, name: str | None) -> str:
    """Return why the pools of a deployment have their sizes.

    Args:
        place: the cluster and its namespaces.
        name: of the InferenceDeployment; None: the only one in its namespace.

    Raises:
        UserError: there is no such deployment, nothing sizes its pools, or the cluster refuses.
    """
    try:
        found = configuration(place.context)
        namespace = place.namespace or _own_namespace(place.context)
    except ConfigException as error:
        raise UserError(
            f"no cluster: {str(error).rstrip('.')}; set KUBECONFIG or --context, or run something "
            "locally: penstock up FILE"
        ) from None
    api = Api(found, OperatorMetrics(CollectorRegistry()))
    return asyncio.run(_ask(api, namespace, name, place.system_namespace))


def _own_namespace(context: str | None) -> str:
    """Return the namespace that the kubeconfig's context, or the pod, is in."""
    try:
        known, active = list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except ConfigException:
        return SERVICE_ACCOUNT.with_name("namespace").read_text().strip()
    chosen = next((c for c in known if c["name"] == context), active)
    return str(chosen["context"].get("namespace") or "default")


async def _ask(api: Api, namespace: str, name: str | None, system: str) -> str:
    try:
        raw = await _deployment(api, namespace, name)
        deployment, wrong = read_deployment(raw)
        if deployment is None:
            raise UserError(f"InferenceDeployment {raw['metadata']['name']}: {wrong}")
        return await _told(api, deployment, raw, system)
    except ApiError as error:
        raise UserError(_refused(error, namespace)) from None
    finally:
        await api.close()


async def _deployment(api: Api, namespace: str, name: str | None) -> Object:
    if name is not None:
        found = await api.get(INFERENCE_DEPLOYMENT, namespace, name)
        if found is None:
            raise UserError(f"no InferenceDeployment {name} in namespace {namespace} (see -n)")
        return found
    items = (await api.list(INFERENCE_DEPLOYMENT, namespace))["items"]
    if len(items) != 1:
        known = ", ".join(item["metadata"]["name"] for item in items) or "none"
        raise UserError(f"name one of these InferenceDeployments in {namespace}: {known}")
    one: Object = items[0]
    return one


async def _told(api: Api, deployment: InferenceDeployment, raw: Object, system: str) -> str:
    place = (str(raw["metadata"]["namespace"]), deployment.metadata.name)
    if not deployment.is_autoscaled:
        raise UserError(
            f"no pool of {place[1]} is sized by the autoscaler: give one `scaling` in place of "
            "`replicas`"
        )
    try:
        return await _of_the_operator(api, system, "/".join(("explain", *place)))
    except _Unasked as why:
        status = read_status(raw)
        words = recount(place[1], status) if status else f"{place[1]}: nothing was reported yet"
        return (
            f"{words}\n\nThis is what the status holds; what was measured just now only the "
            f"operator knows, and it could not be asked: {why}\n"
        )


async def _of_the_operator(api: Api, system: str, path: str) -> str:
    """Ask each replica: only the one that leads decides."""
    try:
        pods = (await api.list(POD, system, OPERATORS))["items"]
    except ApiError as error:
        raise _Unasked(str(error)) from None
    why = f"it has no pod in namespace {system} (see --system-namespace)"
    for pod in pods:
        try:
            return await api.proxied(POD, system, pod["metadata"]["name"], path)
        except ApiError as error:
            why = str(error)
    raise _Unasked(why)


def _refused(error: ApiError, namespace: str) -> str:
    if error.status == 0:
        return f"the API server cannot be reached: {error}"
    if error.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return f"reading InferenceDeployments in namespace {namespace} is not allowed: {error}"
    return str(error)
