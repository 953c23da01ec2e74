"""Ties the watches, the queue, the decision and the actions together."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_operator.cluster.act import Actor, Refused
from penstock_operator.cluster.actions import Action
from penstock_operator.cluster.adapter_watch import AdapterWatch
from penstock_operator.cluster.ailments import ailments
from penstock_operator.cluster.api import CONFLICT, ApiError
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.gateways import GatewayWatch
from penstock_operator.cluster.groups import groups, seen_as_one
from penstock_operator.cluster.kinds import POD, served_children
from penstock_operator.cluster.lease import Lease
from penstock_operator.cluster.metrics import OperatorMetrics
from penstock_operator.cluster.observed import Observed, Pod, pod
from penstock_operator.cluster.pod_startup import PodStartup
from penstock_operator.cluster.reading import read_deployment, read_pools, refreshed
from penstock_operator.cluster.rollout_state import load_of
from penstock_operator.cluster.served_names import ServedNames
from penstock_operator.cluster.workqueue import WorkQueue
from penstock_operator.manifests import Object, Settings
from penstock_operator.snapshot import Obstacle, ScalingReport

log = logging.getLogger("penstock.operator")

AT_ONCE = 8
"""InferenceDeployments that are reconciled at the same time."""


class NotLeading(Exception):
    """The lease was lost while acting."""


class Controller:
    """Reconciles InferenceDeployments, one at a time each."""

    def __init__(
        self,
        cache: Cache,
        actor: Actor,
        gateways: GatewayWatch,
        lease: Lease,
        startup: PodStartup,
        metrics: OperatorMetrics,
        settings: Settings,
        resync: float,
        adapters: AdapterWatch,
    ) -> None:
        self._cache = cache
        self._actor = actor
        self._gateways = gateways
        self._lease = lease
        self._startup = startup
        self._metrics = metrics
        self._settings = settings
        self._resync = resync
        self._adapters = adapters
        self._queue: WorkQueue[Key] = WorkQueue(self._reconcile, AT_ONCE)
        self._served: frozenset[str] = frozenset()
        self._since: dict[Key, dict[str, float]] = {}
        self._parsed: dict[Key, tuple[str, InferenceDeployment | None, str]] = {}
        self._drains: dict[Key, float] = {}
        self._refused: dict[Key, Obstacle] = {}
        self._names = ServedNames()
        self._scaling: Callable[[Key], ScalingReport | None] = lambda _: None

    def scaled_by(self, report: Callable[[Key], ScalingReport | None]) -> None:
        """Say who tells what the autoscaler thinks of an InferenceDeployment."""
        self._scaling = report

    def changed(self, keys: set[Key]) -> None:
        """Look at these InferenceDeployments again."""
        self._queue.add(key for key in keys if key.name)
        self._metrics.waiting(len(self._queue))

    def gateways_changed(self, as_a_whole: bool) -> None:
        """Look again at whoever waits for the gateways, or at all when they came or went."""
        self.changed(self.everything() if as_a_whole else set(self._drains))

    def everything(self) -> set[Key]:
        """Return all InferenceDeployments."""
        return {Key(*place) for place in self._cache.names("InferenceDeployment")}

    async def run(self) -> None:
        """Work until cancelled; the caller holds the lease.

        What was noted while it was held before says nothing now: another may have led meanwhile.
        """
        for noted in (self._since, self._drains, self._refused):
            noted.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run())
            tasks.create_task(self._look_again())

    async def _look_again(self) -> None:
        """Level-triggered: what no event told is found by looking at everything now and then.

        One after the other, so that news does not stand in line behind a thousand looks.
        """
        self.changed(self.everything())
        while True:
            keys = sorted(self.everything())
            for key in keys:
                await asyncio.sleep(self._resync / len(keys))
                self.changed({key})
            if not keys:
                await asyncio.sleep(self._resync)

    def serve(self, served: frozenset[str]) -> None:
        """Plan for a cluster that serves these kinds, all of which are watched by now."""
        if served != self._served:
            self._served = served
            self._actor.kinds = {kind.name: kind for kind in served_children(served)}
            self.changed(self.everything())

    async def _reconcile(self, key: Key) -> float | None:
        """Do what an InferenceDeployment needs now; return after how many seconds to look again."""
        began = time.monotonic()
        raw = self._cache.get("InferenceDeployment", key.namespace, key.name)
        if raw is None:
            self._forget(key)
            return None
        self.changed(self._names.note(key, raw))
        well = False
        try:
            again_in = await self._step(key, raw, began)
            well = True
            return again_in
        except ApiError as error:
            level = logging.INFO if error.status == CONFLICT else logging.WARNING
            log.log(level, "%s: trying again: %s", key, error)
            raise
        except Refused as error:
            log.warning("%s: trying again: %s", key, error)
            raise
        except NotLeading:
            raise
        except Exception:
            log.exception("%s: trying again", key)
            raise
        finally:
            self._metrics.reconciled(time.monotonic() - began, well=well)
            self._metrics.waiting(len(self._queue))

    def _forget(self, key: Key) -> None:
        self._parsed.pop(key, None)
        self._drains.pop(key, None)
        self._refused.pop(key, None)
        self._adapters.want(key, {})
        self._startup.forget(key)
        self._since.pop(key, None)
        self.changed(self._names.forget(key))

    async def _step(self, key: Key, raw: Object, now: float) -> float | None:
        pods = (pod(found) for found in self._cache.of(POD.name, key))
        seen = await self._startup.explained(key, pods, now)
        decision = decide(self._observed(key, raw, seen), self._settings)
        self._adapters.want(key, decision.agents)
        if decision.drains:
            self._drains.setdefault(key, time.monotonic())
            self._gateways.hurry()
        else:
            self._drains.pop(key, None)
        if await self._act(key, raw, decision.actions):
            self._queue.add([key])  # what was written may make the next step possible
        waits = (decision.again_in, self._startup.again_in(key, now))
        return min((wait for wait in waits if wait is not None), default=None)

    async def _act(self, key: Key, raw: Object, actions: Sequence[Action]) -> bool:
        """Do all actions in order; return whether anything changed.

        What only a user can put right does not hinder the rest.
        """
        refused: Refused | None = None
        lasting: set[str] = set()
        changed = False
        for action in actions:
            if not self._lease.held:
                raise NotLeading
            try:
                changed |= await self._actor.act(key, raw, action, lasting)
            except Refused as error:
                refused = refused or error
        if refused is None:
            self._refused.pop(key, None)
            return changed
        self._refused[key] = refused.obstacle  # told in the status, which the next turn writes
        raise refused

    def _observed(self, key: Key, raw: Object, seen: tuple[Pod, ...]) -> Observed:
        deployment, invalid = self._understood(key, raw)
        pools, misread = read_pools(self._cache.of("EnginePool", key))
        names = [kind.name for kind in served_children(self._served)]
        children = [c for name in names if name != "Deployment" for c in self._cache.of(name, key)]
        workloads = {w["metadata"]["name"]: w for w in self._cache.of("Deployment", key)}
        followers = tuple(pod for pod in seen if pod.leader)
        leaders = tuple(pod for pod in seen if not pod.leader)
        spanning = groups(leaders, followers, workloads)
        serving = seen_as_one(leaders, spanning)
        draining = frozenset(p.uid for p in leaders if p.draining)
        timed = [*draining, *(it for group in spanning for it in ailments(group))]
        timed += filter(None, map(load_of, serving))
        now = time.monotonic()
        return Observed(
            raw=raw,
            deployment=None if misread else deployment,
            invalid=invalid or misread,
            refused=self._refused.get(key),
            pools=pools,
            children={(c["kind"], c["metadata"]["name"]): c for c in children},
            workloads=workloads,
            pods=serving,
            followers=followers,
            gateways=self._gateways.view(draining, self._drains.get(key)),
            served=self._served,
            scaling=self._scaling(key),
            adapters=self._adapters.reports(key),
            names_lost=self._names.lost(key),
            now=now,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            since=self._remember(key, pools.values(), timed, now),
        )

    def _understood(self, key: Key, raw: Object) -> tuple[InferenceDeployment | None, str]:
        """Return the checked spec, checked once per generation, with the status as it is now."""
        identity = f"{raw['metadata']['uid']} {raw['metadata'].get('generation')}"
        known = self._parsed.get(key)
        if known is None or known[0] != identity:
            known = self._parsed[key] = (identity, *read_deployment(raw))
        deployment, invalid = known[1:]
        return (deployment and refreshed(deployment, raw)), invalid

    def _remember(
        self,
        key: Key,
        pools: Iterable[EnginePool],
        others: Iterable[str],
        now: float,
    ) -> dict[str, float]:
        """Return when things were first seen, by a clock that nobody can set."""
        names = [*others]
        names += [p.status.canary.revision for p in pools if p.status and p.status.canary]
        known = self._since.get(key, {})
        self._since[key] = {name: known.get(name, now) for name in names}
        return self._since[key]
