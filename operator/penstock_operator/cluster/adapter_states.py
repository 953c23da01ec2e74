"""What agents say of adapters, as the status tells it and as gateways route by it. Pure."""

from collections.abc import Iterable, Mapping

from penstock_contract.adapters import (
    AdapterFound,
    AdapterReport,
    AdapterState,
    WantedAdapter,
    WantedAdapters,
)
from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.model import Adapter
from penstock_contract.api.status import AdapterStatus
from penstock_contract.labels import ADAPTERS
from penstock_operator.adapters import comes_and_goes
from penstock_operator.cluster.actions import Action, Agent, Merge
from penstock_operator.cluster.observed import Observed, Pod
from penstock_operator.manifests import Unsupported
from penstock_operator.manifests.adapters import later_adapters

MAX_MESSAGE = 512


def agents(observed: Observed, pools: Iterable[EnginePool]) -> dict[str, Agent]:
    """Return the agents that are up, by their pods' uids."""
    deployment = observed.deployment
    if deployment is None:
        return {}
    return {
        pod.uid: Agent(pod.address, WantedAdapters(adapters=wanted, announced=pod.adapters))
        for pool in pools
        for wanted in [_wanted(deployment, pool)]
        for pod in observed.pods_of(pool.spec.pool)
        if pod.agent and pod.address
    }


def announcements(observed: Observed) -> list[Action]:
    """Return what tells gateways which adapters workers have, where that has changed."""
    actions: list[Action] = []
    for pod in observed.pods:
        report = observed.adapters.get(pod.uid)
        if report is None or pod.deleting or not (report.tried or pod.ready):
            continue  # an engine that starts is announced when it has all that it can have
        if pod.adapters == report.loaded:
            continue
        names = ",".join(report.loaded)
        meta = {"resourceVersion": pod.version, "annotations": {ADAPTERS: names}}
        why = f"{pod.name} has {len(report.loaded)} adapters: {names[:200]}".rstrip(": ")
        actions.append(Merge("Pod", pod.name, {"metadata": meta}, why))
    return actions


def adapter_states(observed: Observed, deployment: InferenceDeployment) -> list[AdapterStatus]:
    """Return how far each adapter of the spec is on the workers that serve."""
    pods = sorted(
        (pod for pod in observed.pods if not (pod.deleting or pod.over or pod.draining)),
        key=lambda pod: pod.name,
    )
    pools = {pool.spec.pool: pool for pool in observed.pools.values()}
    return [
        _state(adapter, deployment, pods, pools, observed.adapters)
        for adapter in deployment.spec.model.adapters
    ]


def _wanted(deployment: InferenceDeployment, pool: EnginePool) -> tuple[WantedAdapter, ...]:
    """Return all that can be brought; one that cannot keeps no other away."""
    found: list[WantedAdapter] = []
    for adapter in deployment.spec.model.adapters:
        model = deployment.spec.model.model_copy(update={"adapters": [adapter]})
        spec = deployment.spec.model_copy(update={"model": model})
        try:
            found += later_adapters(deployment.model_copy(update={"spec": spec}), pool)
        except Unsupported:
            continue
    return tuple(found)


def _unsupported(deployment: InferenceDeployment, adapter: Adapter, pool: EnginePool) -> str:
    index = deployment.spec.model.adapters.index(adapter)
    model = deployment.spec.model.model_copy(update={"adapters": [adapter]})
    spec = deployment.spec.model_copy(update={"model": model})
    try:
        later_adapters(deployment.model_copy(update={"spec": spec}), pool)
    except Unsupported as error:
        return str(error).replace("adapters[0]", f"adapters[{index}]")
    return ""


def _state(
    adapter: Adapter,
    deployment: InferenceDeployment,
    pods: list[Pod],
    pools: Mapping[str, EnginePool],
    reports: Mapping[str, AdapterReport],
) -> AdapterStatus:
    found = [
        (pod, _on(adapter, pod, pools[pod.pool], reports.get(pod.uid)))
        for pod in pods
        if pod.pool in pools and (pod.ready or pod.agent)
    ]
    workers = [(pod, one) for pod, one in found if pod.ready]
    ready = sum(one.state is AdapterState.READY for _, one in workers)
    failed = next(
        (f"{p.name}: {o.message}" for p, o in found if o.state is AdapterState.FAILED), ""
    )
    for pool in pools.values():
        failed = failed or _unsupported(deployment, adapter, pool)
    state, message = AdapterState.LOADING, "no worker serves yet"
    if failed:
        state, message = AdapterState.FAILED, failed[:MAX_MESSAGE]
    elif workers:
        state = AdapterState.READY if ready == len(workers) else AdapterState.LOADING
        message = (
            "" if state is AdapterState.READY else f"{ready} of {len(workers)} workers have it"
        )
    return AdapterStatus(
        name=adapter.name, state=state, ready=ready, workers=len(workers), message=message
    )


def _on(adapter: Adapter, pod: Pod, pool: EnginePool, report: AdapterReport | None) -> AdapterFound:
    """Return how far an adapter is on one worker."""
    if not comes_and_goes(adapter, pool.spec) or not pod.agent:
        # Workers of the wanted revision began with it: without an agent, with all of them.
        begun = pod.revision == pool.spec.rollout_hash
        named = pod.adapters is not None and adapter.name in pod.adapters
        return AdapterFound(state=AdapterState.READY if begun or named else AdapterState.LOADING)
    found = report.adapters.get(adapter.name) if report is not None else None
    if found is None or (found.uri, found.revision) != (adapter.uri, adapter.revision):
        return AdapterFound()
    return found
