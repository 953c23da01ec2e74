"""A cluster of few nodes, played: scheduler, kubelets and garbage collection, one pod to a node.

Engines are vLLM's where they are hardest to live with: a leader ends when it loses a follower, and
loads anew when all are there.
"""

import datetime
import random
from dataclasses import dataclass, replace
from typing import Any

from object_store import SETTINGS, Object, Store

from penstock_contract.api import InferenceDeployment
from penstock_contract.fleet import WorkerLoad, WorkerState
from penstock_contract.labels import DELETION_COST, DRAINING, LEADER, NODES, ROLLOUT_HASH
from penstock_operator.cluster.actions import Action, Create, Delete, RecordEvent
from penstock_operator.cluster.ailments import ailments
from penstock_operator.cluster.decide import decide
from penstock_operator.cluster.groups import groups, seen_as_one
from penstock_operator.cluster.observed import Observed
from penstock_operator.cluster.rollout_state import load_of

STEP = 10.0
"""Seconds between two looks at everything."""
TURNS = 30
"""In which one look must come to an end."""


@dataclass
class Life:
    """What a kubelet knows of a pod, in seconds; None: it has not come to that."""

    placed: float | None = None
    started: float = 0.0
    ended: float | None = None
    whole: float | None = None
    ready: float | None = None
    gone: float | None = None


class SpanningCluster(Store):
    """A cluster with so many nodes, in which an engine loads for a while."""

    def __init__(self, wanted: InferenceDeployment, nodes: int, loads: float, seed: int) -> None:
        self.nodes, self.loads = nodes, loads
        self.random = random.Random(seed)
        self._lives: dict[str, Life] = {}
        self._since: dict[str, float] = {}
        super().__init__(wanted)

    def observed(self) -> Observed:
        """Return what the operator sees, as its controller puts it together."""
        seen = super().observed()
        leaders = [one for one in seen.pods if not one.leader]
        followers = tuple(one for one in seen.pods if one.leader)
        found = groups(leaders, followers, seen.workloads)
        serving = seen_as_one(leaders, found)
        draining = [one.uid for one in leaders if one.draining]
        names = [*draining, *(it for group in found for it in ailments(group))]
        names += filter(None, map(load_of, serving))
        statuses = (pool.status for pool in seen.pools.values())
        names += [one.canary.revision for one in statuses if one and one.canary]
        self._since = {name: self._since.get(name, self.now) for name in names}
        loads = {one.uid: WorkerLoad(state=WorkerState.READY) for one in leaders}
        gateways = replace(seen.gateways, loads=loads, confirmed=frozenset(draining))
        more: dict[str, Any] = {"since": self._since, "gateways": gateways}
        return replace(seen, pods=serving, followers=followers, **more)

    def run(self, seconds: float) -> int:
        """Let time pass; return how often the operator wrote anything."""
        writes = 0
        for _ in range(int(seconds / STEP)):
            self.now += STEP
            self.controllers()
            writes += self._turns()
        return writes

    def _turns(self) -> int:
        for turn in range(TURNS):
            found = decide(self.observed(), SETTINGS).actions
            actions = [action for action in found if not isinstance(action, RecordEvent)]
            if not actions:
                return turn
            for action in actions:
                self._do(action)
        raise AssertionError(f"does not come to an end: {actions}")

    def _do(self, action: Action) -> None:
        if isinstance(action, Create):
            meta = action.body["metadata"]
            assert (action.body["kind"], meta["name"]) not in self.objects, "it is there"
        if isinstance(action, Delete):
            meta = self.objects[action.kind, action.name]["metadata"]
            assert "deletionTimestamp" not in meta, "it is being deleted already"
        self.act(action)

    def pods(self, *, serve: bool) -> list[Object]:
        """Return those that serve, or followers, that are to stay."""
        return [
            found
            for found in self.of("Pod")
            if (LEADER not in found["metadata"]["labels"]) is serve and not _leaves(found)
        ]

    def ready(self) -> int:
        """Return how many replicas can compute."""
        return sum(self._life(found).ready is not None for found in self.pods(serve=True))

    def lose(self, *, serve: bool) -> None:
        """Have a pod that serves, or a follower, be deleted, as an eviction does."""
        if found := self.pods(serve=serve):
            self.collect("Pod", self.random.choice(found)["metadata"]["name"])

    def collect(self, kind: str, name: str) -> None:
        """Pods take their time to end."""
        if kind != "Pod":
            return super().collect(kind, name)
        found = self.objects[kind, name]
        if not _leaves(found):
            self._life(found).gone = self.now + self.random.randint(1, 30)
            marks = {"deletionTimestamp": _stamp(self.now), "deletionGracePeriodSeconds": 30}
            self.put({**found, "metadata": found["metadata"] | marks})
        return None

    def controllers(self) -> None:
        """Everybody but the operator does what there is to do."""
        self._finish()
        for found in self.of("Deployment"):
            self._scale(found)
        waiting = [one for one in self.of("Pod") if not (self._placed(one) or _leaves(one))]
        self.random.shuffle(waiting)
        free = self.nodes - sum(map(self._placed, self.of("Pod")))
        for found in waiting[: max(0, free)]:
            self._life(found).placed = self._life(found).started = self.now
        for found in self.of("Pod"):
            self._tell(found)

    def _finish(self) -> None:
        for found in self.of("Pod"):
            gone = self._life(found).gone
            if gone is None or self.now < gone:
                continue
            meta = found["metadata"]
            del self.objects["Pod", meta["name"]]
            for other in self.of("Pod"):
                if any(o["uid"] == meta["uid"] for o in other["metadata"]["ownerReferences"]):
                    self.collect("Pod", other["metadata"]["name"])

    def _scale(self, workload: Object) -> None:
        meta, wanted = workload["metadata"], workload["spec"]["replicas"]
        owner = [{"uid": meta["uid"], "kind": "Deployment", "name": meta["name"]}]
        mine = [p for p in self.pods(serve=True) if p["metadata"]["ownerReferences"] == owner]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        for _ in range(wanted - len(mine)):
            made = {"name": f"pod-{next(self._serial)}", "labels": labels, "annotations": {}}
            self.put({"kind": "Pod", "metadata": {**made, "ownerReferences": owner}})
        mine.sort(key=self._rank)
        for found in mine[: max(0, len(mine) - wanted)]:
            self.collect("Pod", found["metadata"]["name"])

    def _rank(self, found: Object) -> tuple[bool, bool, int]:
        """Return a key by which a ReplicaSet takes pods away."""
        cost = int(found["metadata"]["annotations"].get(DELETION_COST, 0))
        return self._placed(found), self._life(found).ready is not None, cost

    def _tell(self, found: Object) -> None:
        """Have the scheduler or a kubelet write a pod's status, if it is another one now."""
        life = self._life(found)
        status = _nowhere() if life.placed is None else self._run(found, life)
        if status != found.get("status"):
            self.put({**found, "status": status})

    def _run(self, found: Object, life: Life) -> Object:
        meta = found["metadata"]
        if LEADER not in meta["labels"]:
            self._compute(life, whole=self._is_whole(meta), drains=DRAINING in meta["annotations"])
        conditions = [_condition("PodScheduled", life.placed), _condition("Ready", life.ready)]
        conditions.append(_condition("Initialized", life.placed))
        engine: Object = {
            "name": "worker",
            "state": {"running": {"startedAt": _stamp(life.started)}},
        }
        if life.ended is not None:
            engine["lastState"] = {"terminated": {"finishedAt": _stamp(life.ended)}}
        return {"podIP": "10.0.0.1", "conditions": conditions, "containerStatuses": [engine]}

    def _compute(self, life: Life, *, whole: bool, drains: bool) -> None:
        if not whole:
            if life.ready is not None:
                life.ended, life.started = self.now, self.now + 1
            life.whole = life.ready = None
            return
        life.whole = self.now if life.whole is None else life.whole
        loaded = self.now >= max(life.whole, life.started) + self.loads
        if drains or not loaded:
            life.ready = None
        elif life.ready is None:
            life.ready = self.now

    def _is_whole(self, leader: Object) -> bool:
        revision = leader["labels"][ROLLOUT_HASH]
        sizes = (
            int(one["metadata"]["labels"].get(NODES, 1))
            for one in self.of("Deployment")
            if one["metadata"]["labels"][ROLLOUT_HASH] == revision
        )
        there = [
            p for p in self.pods(serve=False) if p["metadata"]["labels"][LEADER] == leader["name"]
        ]
        return sum(map(self._placed, there)) == next(sizes, 0) - 1

    def _life(self, found: Object) -> Life:
        return self._lives.setdefault(found["metadata"]["uid"], Life())

    def _placed(self, found: Object) -> bool:
        return self._life(found).placed is not None


def _leaves(found: Object) -> bool:
    return "deletionTimestamp" in found["metadata"]


def _nowhere() -> Object:
    words = {"reason": "Unschedulable", "message": "0/9 nodes are available"}
    return {"conditions": [{"type": "PodScheduled", "status": "False", **words}]}


def _condition(kind: str, since: float | None) -> Object:
    if since is None:
        return {"type": kind, "status": "False"}
    return {"type": kind, "status": "True", "lastTransitionTime": _stamp(since)}


def _stamp(seconds: float) -> str:
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(
        seconds=seconds
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
