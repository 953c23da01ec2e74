"""The autoscaler in a cluster: reads its pods' metrics and sizes EnginePools.

It writes `spec.replicas` under its own field manager, and only to change it. Server-side apply
tells when somebody else owns that field: an HPA that was pointed at the pool keeps it, `kubectl
scale` does not.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.api.status import LastScale
from penstock_contract.conditions import Reason
from penstock_contract.labels import API_VERSION, SCALING_MEMORY
from penstock_operator.autoscaling.advisor import Advisor, Timing
from penstock_operator.autoscaling.evaluation import Evaluation, Memory
from penstock_operator.autoscaling.explain import explanations
from penstock_operator.autoscaling.memory import dump, load
from penstock_operator.autoscaling.metrics import AutoscalerMetrics
from penstock_operator.autoscaling.report import last_scale, reason
from penstock_operator.autoscaling.sources import Source, Target
from penstock_operator.cluster.api import Api, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import ENGINE_POOL, POD
from penstock_operator.cluster.measured import targets_of, topology_of
from penstock_operator.cluster.observed import pod
from penstock_operator.cluster.reading import read_deployment, read_pools
from penstock_operator.manifests import Object
from penstock_operator.scaling.decision import Decision
from penstock_operator.snapshot import ScalingReport

log = logging.getLogger("penstock.autoscaler")

INTERVAL = 15.0
"""Seconds between two decisions about a deployment, unless told otherwise."""
POD_START = 15.0
UNKNOWN_START = 120.0
LOOK = 1.0
"""Seconds between two looks at who is due; and at a deployment that has no worker."""
AT_ONCE = 16
"""Deployments that are read at the same time."""
OVERRIDDEN = ("penstock-", "kubectl")
"""Field managers whose size is not kept; all others have been put in charge of the pool."""


class OwnedByAnother(Exception):
    """Another controller sizes the pool."""


class Autoscaler:
    """Decides about every InferenceDeployment that has pools to size.

    Args:
        api: writes as the autoscaler's field manager.
        cache: what was last seen of the cluster.
        source: reads metrics.
        gateways: returns the gateways.
        changed: is told whose status has news.
        metrics: of decisions.
        interval: seconds between two decisions about a deployment.
    """

    def __init__(
        self,
        api: Api,
        cache: Cache,
        source: Source,
        gateways: Callable[[], list[Target]],
        changed: Callable[[set[Key]], None],
        metrics: AutoscalerMetrics,
        interval: float = INTERVAL,
    ) -> None:
        self._api = api
        self._cache = cache
        self._advisor: Advisor[Key] = Advisor(source, Timing(interval, POD_START, UNKNOWN_START))
        self._gateways = gateways
        self._changed = changed
        self._metrics = metrics
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._reports: dict[Key, ScalingReport] = {}
        self._explanations: dict[Key, str] = {}
        self._parsed: dict[Key, tuple[str, InferenceDeployment | None]] = {}

    async def run(self) -> None:
        """Decide until cancelled; the caller holds the lease.

        It begins with what the last holder of the lease has stored, not with what it knew itself.
        """
        self._forget(set())
        while True:
            keys = {Key(*place) for place in self._cache.names("InferenceDeployment")}
            self._forget(keys)
            await asyncio.gather(*(self._consider_or_log(key) for key in keys))
            await asyncio.sleep(LOOK)

    def report(self, key: Key) -> ScalingReport | None:
        """Return what the status tells; None: nothing was decided yet."""
        return self._reports.get(key)

    def explanation(self, namespace: str, name: str) -> str | None:
        """Return why the pools of a deployment have their sizes; None: nothing was decided yet."""
        return self._explanations.get(Key(namespace, name)) or None

    def _forget(self, keys: set[Key]) -> None:
        self._advisor.forget(keys)
        for known in (self._reports, self._explanations, self._parsed):
            for key in known.keys() - keys:
                del known[key]

    async def _consider_or_log(self, key: Key) -> None:
        """A deployment that cannot be sized keeps its sizes, and hinders no other."""
        try:
            async with self._slots:
                await self._consider(key)
        except ApiError as error:
            log.warning("%s: trying again: %s", key, error)
        except Exception:
            log.exception("%s cannot be sized", key)

    async def _consider(self, key: Key) -> None:
        deployment = self._deployment(key)
        if deployment is None or not deployment.is_autoscaled:
            self._reports.pop(key, None)
            return
        pools = read_pools(self._cache.of(ENGINE_POOL.name, key))[0]
        if not self._advisor.knows(key):
            self._advisor.remember(key, _remembered(list(pools.values()), self._advisor.now))
        pods = [pod(found) for found in self._cache.of(POD.name, key)]
        gateways = self._gateways()
        topology = topology_of(deployment, list(pools.values()), pods, gateways)
        targets = [*gateways, *targets_of(key, pods)]
        evaluation = await self._advisor.advise(key, deployment, topology, targets)
        if evaluation is not None:
            self._metrics.decided(key.namespace, key.name, evaluation)
            self._explanations[key] = explanations(key.name, evaluation)
            await self._apply(key, pools, evaluation)

    def _deployment(self, key: Key) -> InferenceDeployment | None:
        """Return the spec, read once per generation."""
        raw = self._cache.get("InferenceDeployment", key.namespace, key.name)
        if raw is None or "deletionTimestamp" in raw["metadata"]:
            return None
        identity = f"{raw['metadata']['uid']} {raw['metadata'].get('generation')}"
        known = self._parsed.get(key)
        if known is None or known[0] != identity:
            known = self._parsed[key] = (identity, read_deployment(raw)[0])
        return known[1]

    async def _apply(self, key: Key, pools: dict[str, EnginePool], evaluation: Evaluation) -> None:
        decisions = evaluation.record.decisions.pools.values()
        last: dict[str, LastScale] = {}
        found = reason(decisions, evaluation.problems)
        for decision in decisions:
            if decision.replicas == decision.current:
                continue
            try:
                await self._size(key, _named(pools, decision.pool), decision)
            except OwnedByAnother as owner:
                words = f"{decision.pool}: {owner} sizes it; remove one of the two"
                found = Reason.SCALED_BY_ANOTHER, words
                continue
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            last[decision.pool] = last_scale(decision, time)
        before = self._reports.get(key)
        report = ScalingReport(*found, {**(before.last if before else {}), **last})
        if report != before:
            self._reports[key] = report
            self._changed({key})

    async def _size(self, key: Key, pool: EnginePool, decision: Decision) -> None:
        """Write a size, and with it what the next process has to know."""
        name = pool.metadata.name
        memory = dump(self._advisor.memory(key))
        body: Object = {
            "apiVersion": API_VERSION,
            "kind": ENGINE_POOL.name,
            "metadata": {"name": name, "annotations": {SCALING_MEMORY: memory}},
            "spec": {"replicas": decision.replicas},
        }
        try:
            found = await self._api.apply(ENGINE_POOL, key.namespace, name, body, force=False)
        except ApiError as error:
            if not error.managers:
                raise
            others = [owner for owner in error.managers if not owner.startswith(OVERRIDDEN)]
            if others:
                raise OwnedByAnother(others[0]) from None
            found = await self._api.apply(ENGINE_POOL, key.namespace, name, body)
        self._changed(self._cache.answered(ENGINE_POOL.name, found))
        log.info(
            "%s/%s: from %d to %d: %s",
            key, decision.pool, decision.current, decision.replicas, decision.reason,
        )  # fmt: skip


def _remembered(pools: Sequence[EnginePool], now: float) -> Memory:
    """Return what was known when a pool was sized last."""
    texts = (pool.metadata.annotations.get(SCALING_MEMORY, "") for pool in pools)
    memories = [load(text, now) for text in texts if text]
    return max(memories, key=lambda memory: memory.state.decided or 0.0, default=Memory())


def _named(pools: dict[str, EnginePool], pool: str) -> EnginePool:
    return next(found for found in pools.values() if found.spec.pool == pool)
