"""What agents say of adapters, as the status tells it and as gateways route by it. Pure."""

from collections.abc import Iterable, Mapping

from penstock_contract.adapters import (
    AdapterFound,
    AdapterReport,
    AdapterState,
    WantedAdapters,
)
from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.model import Adapter
from penstock_contract.api.status import AdapterStatus
from penstock_contract.labels import ADAPTERS
from penstock_operator.adapters import comes_and_goes
from penstock_operator.cluster.actions import Action, Agent, Merge
from penstock_operator.cluster.observed import Observed, Pod
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
        for wanted in [later_adapters(deployment, pool)[0]]
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


def adapter_states(
    observed: Observed, deployment: InferenceDeployment, pools: Iterable[EnginePool]
) -> list[AdapterStatus]:
    """Return how far each adapter of the spec is on the workers that serve.

    Args:
        observed: what is seen.
        deployment: whose adapters they are.
        pools: as planned for the spec as it is now; those that are stored may be older.
    """
    by_name = {pool.spec.pool: pool for pool in pools}
    refused: dict[str, str] = {}
    for pool in by_name.values():
        refused |= later_adapters(deployment, pool)[1]
    workers = sorted((pod for pod in observed.pods if _counts(pod, by_name)), key=lambda p: p.name)
    return [
        _state(
            adapter.name,
            refused.get(adapter.name, ""),
            [
                (pod, _on(adapter, pod, by_name[pod.pool], observed.adapters.get(pod.uid)))
                for pod in workers
            ],
        )
        for adapter in deployment.spec.model.adapters
    ]


def _counts(pod: Pod, pools: Mapping[str, EnginePool]) -> bool:
    """Also one that is not ready yet, where there is an agent that may tell of a failure."""
    stays = pod.pool in pools and not (pod.deleting or pod.over or pod.draining)
    return stays and (pod.ready or pod.agent)


def _state(name: str, refused: str, found: list[tuple[Pod, AdapterFound]]) -> AdapterStatus:
    """Return the state of one adapter.

    Args:
        name: its.
        refused: why it can be brought nowhere; empty: it can.
        found: how far it is on each worker.
    """
    serving = [one.state for pod, one in found if pod.ready]
    ready = serving.count(AdapterState.READY)
    failures = (f"{p.name}: {o.message}" for p, o in found if o.state is AdapterState.FAILED)
    if failure := next(failures, refused):
        state, message = AdapterState.FAILED, failure
    elif not serving:
        state, message = AdapterState.LOADING, "no worker serves yet"
    elif ready < len(serving):
        state, message = AdapterState.LOADING, f"{ready} of {len(serving)} workers have it"
    else:
        state, message = AdapterState.READY, ""
    return AdapterStatus(
        name=name, state=state, ready=ready, workers=len(serving), message=message[:MAX_MESSAGE]
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
