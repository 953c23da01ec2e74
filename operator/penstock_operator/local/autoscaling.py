"""The autoscaler of the local runtime: scrapes its own processes and sizes their pools."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import httpx

from penstock_contract.api import InferenceDeployment
from penstock_contract.api.status import LastScale
from penstock_operator.autoscaling import names
from penstock_operator.autoscaling.advisor import Advisor, Timing
from penstock_operator.autoscaling.evaluation import Evaluation
from penstock_operator.autoscaling.explain import explanations
from penstock_operator.autoscaling.record import write
from penstock_operator.autoscaling.report import last_scale, reason
from penstock_operator.autoscaling.sources import Scraper, Target
from penstock_operator.autoscaling.topology import PoolTopology, Topology
from penstock_operator.local.child import Child
from penstock_operator.local.decide import GATEWAY, Phase
from penstock_operator.local.desired import Desired, PlannedPool
from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home
from penstock_operator.local.journal import Journal
from penstock_operator.local.scale import scale
from penstock_operator.local.store import Store, write_text
from penstock_operator.scaling.decision import Decision
from penstock_operator.snapshot import ScalingReport

log = logging.getLogger("penstock.autoscaler")

TIMING = Timing(interval=5.0, overhead=0.0, unknown_start=10.0)
LOOK = 0.5
"""Seconds between two looks at who is due; and at a deployment that has no worker."""
SERVING = (Phase.READY, Phase.DRAINING, Phase.TERMINATING)


class Autoscaler:
    """Decides about every deployment that has pools to size.

    Args:
        home: the state folder; explanations and the log of decisions are kept there.
        http: asks the processes.
        journal: is told of changes.
        desired: returns what is wanted now.
        children: returns the living processes.
        now_text: returns the time for people, RFC 3339.
    """

    def __init__(
        self,
        home: Home,
        http: httpx.AsyncClient,
        journal: Journal,
        desired: Callable[[], Desired],
        children: Callable[[], list[Child]],
        now_text: Callable[[], str],
    ) -> None:
        self._home = home
        self._advisor: Advisor[str] = Advisor(Scraper(http), TIMING)
        self._journal = journal
        self._desired = desired
        self._children = children
        self._now = now_text
        self._store = Store(home.objects)
        self._reports: dict[str, ScalingReport] = {}
        self._trouble: dict[str, str] = {}

    async def run(self) -> None:
        """Decide until cancelled."""
        while True:
            self._forget_others({d.metadata.name for d in self._desired().deployments})
            for deployment in self._desired().deployments:
                if deployment.is_autoscaled:
                    await self._consider_or_tell(deployment)
            await asyncio.sleep(LOOK)

    def report(self, deployment: str) -> ScalingReport | None:
        """Return what the status tells; None: nothing was decided yet."""
        return self._reports.get(deployment)

    def _forget_others(self, names: set[str]) -> None:
        """A deployment that comes back under an old name begins anew."""
        self._advisor.forget(names)
        for name in self._reports.keys() - names:
            del self._reports[name]
            self._home.explanation(name).unlink(missing_ok=True)

    async def _consider_or_tell(self, deployment: InferenceDeployment) -> None:
        """A pool that cannot be sized keeps its size, and goes on serving."""
        name = deployment.metadata.name
        try:
            await self._consider(deployment)
        except Exception as error:
            log.exception("%s cannot be sized", name)
            if self._trouble.get(name) != str(error):
                self._journal.tell(name, f"cannot be sized: {type(error).__name__}: {error}")
            self._trouble[name] = str(error)

    async def _consider(self, deployment: InferenceDeployment) -> None:
        name = deployment.metadata.name
        topology = self._topology(deployment)
        targets = _targets(topology, {child.id: child for child in self._children()})
        evaluation = await self._advisor.advise(name, deployment, topology, targets)
        if evaluation is not None:
            write_text(self._home.explanation(name), explanations(name, evaluation) + "\n")
            self._apply(name, evaluation)

    def _apply(self, name: str, evaluation: Evaluation) -> None:
        """Do what was decided, and keep the record of what was done."""
        decisions = evaluation.record.decisions.pools.values()
        changes = [decision for decision in decisions if decision.replicas != decision.current]
        done = [decision for decision in changes if self._size(name, decision)]
        if done:
            with self._home.decisions(name).open("a") as records:
                records.write(write(evaluation.record) + "\n")
        last: dict[str, LastScale] = {}
        if before := self._reports.get(name):
            last |= before.last
        last |= {decision.pool: last_scale(decision, self._now()) for decision in done}
        self._reports[name] = ScalingReport(*reason(decisions, evaluation.problems), last)

    def _size(self, deployment: str, decision: Decision) -> bool:
        target = f"{deployment}/{decision.pool}"
        try:
            scale(self._store, target, decision.replicas)
        except UserError as error:
            self._journal.tell(target, f"could not be scaled: {error}")
            return False
        words = f"scaled from {decision.current} to {decision.replicas}: {decision.reason}"
        self._journal.tell(target, words)
        return True

    def _topology(self, deployment: InferenceDeployment) -> Topology:
        name, children = deployment.metadata.name, self._children()
        gateways = [c.id for c in children if c.key == GATEWAY.key and c.phase in SERVING]
        pools = []
        for planned in self._desired().pools.values():
            if planned.key.deployment == name:
                mine = [child for child in children if child.key == planned.key]
                pools.append(_pool(planned, mine))
        return Topology(deployment.served_name, tuple(gateways), tuple(pools))


def _pool(planned: PlannedPool, children: Sequence[Child]) -> PoolTopology:
    def count(*phases: Phase) -> int:
        return sum(1 for child in children if child.phase in phases)

    spec = planned.pool.spec
    return PoolTopology(
        name=spec.pool,
        role=spec.role,
        desired=spec.replicas,
        workers=tuple(child.id for child in children if child.phase in SERVING),
        ready=count(Phase.READY),
        starting=count(Phase.STARTING),
        draining=count(Phase.DRAINING, Phase.TERMINATING),
    )


def _targets(topology: Topology, children: Mapping[str, Child]) -> list[Target]:
    gateways = [Target(g, children[g].url, names.GATEWAY_FAMILIES) for g in topology.gateways]
    return gateways + [Target(w, children[w].url, names.WORKER_FAMILIES) for w in topology.workers]
