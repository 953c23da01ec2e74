"""Replicas that span nodes: what their followers are made of, and what becomes of them."""

from dataclasses import dataclass, field, replace
from typing import Any

import kubernetes_validate
import pytest
from deployments import deployment
from pod_security import violations

from penstock_contract.api import EnginePool, InferenceDeployment
from penstock_contract.labels import (
    COMPONENT,
    DEPLOYMENT,
    DRAINING,
    FOLLOWER_OF,
    LEADER,
    LEADER_ADDRESS,
    NODES,
    POOL,
)
from penstock_operator.cluster.actions import Action, Create, Delete
from penstock_operator.cluster.ailments import (
    FINDS_WITHIN,
    LOST_AFTER,
    MEETS_WITHIN,
    RETRIES_AFTER,
    again_in,
    ailments,
)
from penstock_operator.cluster.followers import follower_actions, group_children, one_by_one
from penstock_operator.cluster.groups import awaited, groups, groups_of, seen_as_one
from penstock_operator.cluster.observed import Gateways, Observed, Pod, pod
from penstock_operator.cluster.rollout_state import load_of, rollout_state
from penstock_operator.cluster.trim import trimmed
from penstock_operator.manifests import (
    Place,
    Settings,
    Unsupported,
    follower,
    group_objects,
    rejoins,
    worker_container,
    workload,
)
from penstock_operator.plan import plan
from penstock_operator.rollout import RolloutState, advance

Object = dict[str, Any]
GPU = "nvidia.com/gpu"
SETTINGS = Settings(worker_token_secret="token")
CAME = "2026-01-01T00:00:00Z"
"""When pods run."""
PLACE = Place("chat-default-1a-x", "10.0.0.1", 1)


def spanning(nodes: int = 2, tensor: int = 8, pipeline: int = 2, gpus: int = 8, **pool: Any) -> Any:
    """Return a pool of vLLM's whose replicas span nodes."""
    return {
        "name": "default",
        "replicas": 1,
        "parallelism": {"tensor": tensor, "pipeline": pipeline, "nodes": nodes},
        "resources": {"limits": {GPU: gpus} if gpus else {}},
        **pool,
    }


def vllm(**pool: Any) -> InferenceDeployment:
    return deployment(spanning(**pool), engine={"type": "VLLM"})


def made(wanted: InferenceDeployment) -> tuple[EnginePool, Object]:
    """Return the first pool, and the Deployment of its revision."""
    found = plan(wanted, {}).pools[0]
    return found, workload(wanted, found, SETTINGS, found.spec.replicas)


def flag(container: Object, name: str) -> str:
    arguments: list[str] = container["args"]
    return arguments[arguments.index(name) + 1]


def worker(template: Object) -> Object:
    found: Object = template["spec"]["containers"][0]
    return found


def variable(container: Object, name: str) -> Object:
    return next(one for one in container["env"] if one["name"] == name)


def test_a_leader_and_its_follower_differ_in_their_place_only() -> None:
    pool, found = made(vllm())
    leads = worker(found["spec"]["template"])
    made_pod = follower(pool, found["spec"]["template"], PLACE)
    follows = worker(made_pod)
    assert leads["args"] + ["--headless"] == follows["args"]
    assert (flag(leads, "--nnodes"), flag(leads, "--master-port")) == ("2", "29500")
    assert flag(leads, "--node-rank") == "$(PENSTOCK_NODE_RANK)"
    assert flag(leads, "--master-addr") == "$(PENSTOCK_LEADER_IP)"
    own = {"fieldRef": {"fieldPath": "status.podIP"}}
    assert variable(leads, "PENSTOCK_NODE_RANK")["value"] == "0"
    assert variable(leads, "PENSTOCK_LEADER_IP")["valueFrom"] == own
    assert variable(follows, "PENSTOCK_NODE_RANK")["value"] == "1"
    assert variable(follows, "PENSTOCK_LEADER_IP") == {
        "name": "PENSTOCK_LEADER_IP",
        "value": PLACE.address,
    }
    for container in (leads, follows):
        assert variable(container, "VLLM_HOST_IP")["valueFrom"] == own
        assert variable(container, "VLLM_API_KEY")["valueFrom"]["secretKeyRef"]["name"] == "token"
        assert container["resources"]["limits"] == {GPU: "8"}
    assert not {"startupProbe", "readinessProbe", "livenessProbe", "ports"} & follows.keys()
    assert made_pod["spec"]["volumes"] == found["spec"]["template"]["spec"]["volumes"]


def test_ranks_of_penstocks_engine_are_told_where_they_meet() -> None:
    pool, found = made(deployment(spanning(nodes=2, tensor=4, pipeline=1, gpus=0)))
    leads = worker(found["spec"]["template"])
    follows = worker(follower(pool, found["spec"]["template"], PLACE))
    assert flag(leads, "--nodes") == "2"
    assert flag(leads, "--group-address") == "$(PENSTOCK_LEADER_IP):29500"
    assert flag(leads, "--tensor-parallel-size") == "4"
    assert follows["args"] == leads["args"]
    assert follows["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8000}


def test_a_follower_is_what_no_service_gateway_or_budget_looks_for() -> None:
    pool, found = made(vllm(template={"labels": {"team": "search"}}))
    labels = follower(pool, found["spec"]["template"], PLACE)["metadata"]["labels"]
    assert DEPLOYMENT not in labels
    assert POOL not in labels
    assert labels[COMPONENT] == "follower"
    assert labels[LEADER] == PLACE.leader
    assert labels[FOLLOWER_OF] == "chat-default"
    assert labels["team"] == "search"


def test_followers_meet_the_restricted_profile_and_kubernetes_knows_every_field() -> None:
    pool, found = made(vllm())
    body = follower(pool, found["spec"]["template"], PLACE)
    assert violations(body["spec"]) == []
    for one in (body, found, *group_objects(pool, wanted=1)):
        kubernetes_validate.validate(one, "1.31", strict=True)


def test_only_leader_and_followers_of_a_pool_reach_each_other() -> None:
    pool, _ = made(vllm(nodes=4, gpus=4, replicas=2))
    leaders, followers, _ = group_objects(pool, wanted=6)
    serve = {"podSelector": {"matchLabels": {DEPLOYMENT: "chat", POOL: "default"}}}
    compute = {"podSelector": {"matchLabels": {FOLLOWER_OF: "chat-default"}}}
    assert leaders["spec"] == serve | {
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [compute]}],
    }
    assert followers["spec"]["podSelector"] == compute["podSelector"]
    assert followers["spec"]["ingress"] == [{"from": [serve, compute]}]


def test_a_replica_on_one_node_is_made_as_ever() -> None:
    _, found = made(vllm(nodes=1, gpus=16))
    container = worker(found["spec"]["template"])
    assert NODES not in found["metadata"]["labels"]
    assert "--nnodes" not in container["args"]
    assert not any(name["name"].startswith("PENSTOCK_") for name in container["env"])


def test_one_machine_is_one_node() -> None:
    wanted = deployment(spanning(nodes=2, tensor=4, pipeline=1, gpus=0))
    container = worker_container(wanted, plan(wanted, {}).pools[0])
    assert flag(container, "--tensor-parallel-size") == "4"
    assert "--nodes" not in container["args"]


@pytest.mark.parametrize(
    ("pool", "engine", "field", "fix"),
    [
        ({"nodes": 3}, {"type": "VLLM"}, "parallelism.nodes", "divisor of tensor × pipeline"),
        ({"gpus": 16}, {"type": "VLLM"}, "parallelism", "has 16 on each of 2 nodes"),
        (
            {},
            {"type": "VLLM", "extraArgs": ["--data-parallel-size=2"]},
            "parallelism.nodes",
            "use 1 with --data-parallel-size",
        ),
        ({"tensor": 3, "pipeline": 1, "gpus": 0}, {}, "parallelism.nodes", "divisor of tensor, "),
        (
            {"tensor": 8, "pipeline": 1, "gpus": 8},
            {},
            f"resources.limits[{GPU}]",
            "use 4, one for each rank of parallelism.tensor on a node",
        ),
    ],
)
def test_ranks_that_cannot_be_spread_are_refused_by_their_field(
    pool: Object, engine: Object, field: str, fix: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        made(deployment(spanning(**pool), engine=engine))
    assert refused.value.field == f"spec.pools[default].{field}"
    assert fix in str(refused.value)


@dataclass
class World:
    """A pool of two-node replicas as the operator sees it."""

    wanted: InferenceDeployment = field(default_factory=vllm)
    pods: dict[str, Object] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.pool, found = made(self.wanted)
        self.deployment = trimmed("Deployment", found)

    def leader(self, name: str = "x", **state: Any) -> Object:
        """Have the ReplicaSet make a leader, which runs on a node."""
        labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        return self.add(name, labels, {}, state)

    def add(self, name: str, labels: Object, annotations: Object, state: Object) -> Object:
        running = {"state": {"running": {"startedAt": CAME}}}
        status = {
            "podIP": "10.0.0.1",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True", "lastTransitionTime": CAME},
            ],
            "containerStatuses": [{"name": "worker", **running}],
        }
        meta: Object = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1"}
        meta |= {"labels": labels, "annotations": annotations}
        self.pods[name] = {"kind": "Pod", "metadata": meta, "status": status | state}
        return self.pods[name]

    def observed(self) -> Observed:
        seen = [pod(found) for found in self.pods.values()]
        leaders = [one for one in seen if not one.leader]
        followers = tuple(one for one in seen if one.leader)
        workloads = {self.deployment["metadata"]["name"]: self.deployment}
        return Observed(
            raw={},
            deployment=self.wanted,
            invalid="",
            pools={self.pool.metadata.name: self.pool},
            children={},
            workloads=workloads,
            pods=seen_as_one(leaders, groups(leaders, followers, workloads)),
            followers=followers,
            gateways=Gateways(),
            served=frozenset(),
            now=self.now,
            since=self.since,
        )

    def actions(self) -> list[Action]:
        return follower_actions(self.observed(), self.pool)

    def rollout(self) -> RolloutState:
        self.deployment["spec"]["replicas"] = sum("-" not in name for name in self.pods)
        return rollout_state(self.observed(), self.wanted, self.pool, leaving=False)

    def whole(self, name: str = "x") -> "World":
        """Have a leader and all its followers run."""
        self.leader(name)
        for action in self.actions():
            assert isinstance(action, Create)
            meta = action.body["metadata"]
            self.add(meta["name"], meta["labels"], meta["annotations"], {})
        assert self.actions() == []
        return self

    def seen(self, name: str = "x") -> Pod:
        return next(one for one in self.observed().pods if one.name == name)

    def wait(self, seconds: float) -> None:
        """Let time pass, in which what ails the replicas is remembered."""
        for group in groups_of(self.observed(), self.pool):
            self.since |= dict.fromkeys(ailments(group), self.now) | self.since
        self.now += seconds

    def size(self, wanted: int, has: int) -> int:
        self.deployment["spec"]["replicas"] = has
        revision = self.pool.spec.rollout_hash
        return one_by_one(self.observed(), self.pool, {revision: wanted})[revision]


def ready(found: Object, since: str = "2026-01-01T00:05:00Z") -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": since}
    found["status"]["conditions"].append(condition)


def restarted(found: Object, ended: str, started: str) -> None:
    (container,) = found["status"]["containerStatuses"]
    container["lastState"] = {"terminated": {"finishedAt": ended}}
    container["state"] = {"running": {"startedAt": started}}


def deleting(found: Object, grace: int = 30) -> None:
    stamp = {"deletionTimestamp": "2026-01-01T00:10:00Z", "deletionGracePeriodSeconds": grace}
    found["metadata"] |= stamp


def deleted(actions: list[Action]) -> list[str]:
    assert all(isinstance(action, Delete) for action in actions)
    return [action.name for action in actions if isinstance(action, Delete)]


def test_followers_come_when_their_leader_has_an_address_and_are_its_own() -> None:
    world = World(vllm(nodes=4, gpus=4))
    leader = world.leader(podIP="")
    assert world.actions() == []
    leader["status"]["podIP"] = "10.0.0.7"
    actions = [action for action in world.actions() if isinstance(action, Create)]
    assert [action.body["metadata"]["name"] for action in actions] == ["x-1", "x-2", "x-3"]
    for action in actions:
        meta = action.body["metadata"]
        assert meta["annotations"][LEADER_ADDRESS] == "10.0.0.7"
        (owner,) = meta["ownerReferences"]
        assert owner == {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "x",
            "uid": "uid-x",
            "controller": True,
        }


def test_a_leader_is_loading_only_when_all_of_its_replica_has_what_it_needs() -> None:
    world = World()
    world.leader()
    assert load_of(world.seen()) == "", "a quota may be in the way of its follower"
    world.whole()
    assert load_of(world.seen()) == "uid-x loads"
    download: Object = {"name": "download", "state": {"running": {"startedAt": "2026"}}}
    world.pods["x-1"]["status"]["initContainerStatuses"] = [download]
    assert load_of(world.seen()) == "", "a model of terabytes takes its time"
    download["started"] = True
    assert load_of(world.seen()) == "uid-x loads", "it is a sidecar"
    ready(world.pods["x"])
    assert load_of(world.seen()) == ""


def test_a_follower_that_is_gone_is_made_anew_when_its_leader_has_noticed() -> None:
    world = World().whole()
    gone = world.pods.pop("x-1")
    (action,) = world.actions()
    assert isinstance(action, Create)
    ready(world.pods["x"])
    assert world.actions() == []
    world.pods["x-1"] = gone
    assert world.actions() == []


def test_a_ready_leader_that_does_not_notice_is_begun_anew_as_a_whole() -> None:
    world = World().whole()
    ready(world.pods["x"])
    world.wait(0)
    assert again_in(world.observed(), groups_of(world.observed(), world.pool)[0]) is None
    del world.pods["x-1"]
    world.wait(MEETS_WITHIN - 1)
    assert world.actions() == []
    assert again_in(world.observed(), groups_of(world.observed(), world.pool)[0]) == 1
    world.now += 1
    assert deleted(world.actions()) == ["x"]


def test_a_follower_that_was_started_after_its_leader_was_ready_ends_the_group() -> None:
    world = World().whole()
    ready(world.pods["x"])
    restarted(world.pods["x-1"], "2026-01-01T00:07:00Z", "2026-01-01T00:07:01Z")
    world.wait(MEETS_WITHIN)
    assert deleted(world.actions()) == ["x"]


def test_a_follower_that_computes_for_an_earlier_process_of_its_leader_goes() -> None:
    world = World().whole()
    restarted(world.pods["x"], "2026-01-01T00:07:00Z", "2026-01-01T00:07:20Z")
    assert world.actions() == []
    world.wait(MEETS_WITHIN)
    assert deleted(world.actions()) == ["x-1"]
    restarted(world.pods["x-1"], "2026-01-01T00:07:01Z", "2026-01-01T00:07:02Z")
    assert world.actions() == []


def test_followers_of_penstocks_engine_wait_for_another_process_of_their_leader() -> None:
    world = World(deployment(spanning(tensor=4, pipeline=1, gpus=0))).whole()
    restarted(world.pods["x"], "2026-01-01T00:07:00Z", "2026-01-01T00:07:20Z")
    world.wait(MEETS_WITHIN)
    assert world.actions() == []


def test_a_leader_with_another_address_gets_other_followers() -> None:
    world = World().whole()
    world.pods["x"]["status"]["podIP"] = "10.0.0.9"
    assert deleted(world.actions()) == ["x-1"]


def test_a_follower_that_was_evicted_makes_room_for_another() -> None:
    world = World().whole()
    world.pods["x-1"]["status"]["phase"] = "Failed"
    world.wait(RETRIES_AFTER - 1)
    assert world.actions() == [], "a node that takes none would end one after the other"
    world.now += 1
    assert deleted(world.actions()) == ["x-1"]
    deleting(world.pods["x-1"])
    assert world.actions() == []


def test_a_leader_that_drains_keeps_its_followers_until_it_is_gone() -> None:
    world = World().whole()
    deleting(world.pods["x"], grace=310)
    world.wait(310)
    assert world.actions() == []
    world.now += LOST_AFTER
    assert deleted(world.actions()) == ["x-1"], "its node does not answer, theirs do"


def test_a_replica_whose_followers_node_does_not_answer_begins_anew() -> None:
    world = World().whole()
    deleting(world.pods["x-1"])
    world.wait(30 + LOST_AFTER)
    assert deleted(world.actions()) == ["x"]


def test_followers_of_a_leader_that_was_evicted_free_their_gpus() -> None:
    world = World().whole()
    world.pods["x"]["status"]["phase"] = "Failed"
    assert deleted(world.actions()) == ["x-1"]


def test_a_deployment_that_is_deleted_gets_no_more_followers() -> None:
    world = World()
    world.leader()
    world.deployment["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.actions() == []


def test_replicas_find_their_places_one_after_the_other() -> None:
    world = World()
    assert world.size(3, has=0) == 1
    world.whole()
    assert world.size(3, has=1) == 2
    assert world.size(3, has=2) == 2, "the second has no pod yet"
    del world.pods["x-1"]
    assert world.size(3, has=1) == 1, "the first lacks a follower"
    assert world.size(0, has=1) == 0


def test_of_replicas_that_hold_each_others_nodes_all_but_one_are_given_up() -> None:
    world = World(vllm(replicas=3)).whole("x").whole("y")
    for follower_pod in ("x-1", "y-1"):
        unplaced(world.pods[follower_pod])
    world.wait(FINDS_WITHIN - 1)
    assert drained(world) == ()
    world.now += 1
    (given_up,) = drained(world)
    world.pods[given_up.removeprefix("uid-")]["metadata"]["annotations"][DRAINING] = "true"
    assert drained(world) == (), "the other one stays"
    assert undrained(world) == (), "and this one goes"
    deleting(world.pods[given_up.removeprefix("uid-")])
    assert world.size(3, has=1) == 1, "another comes when the one that is left is whole"


def test_one_half_of_a_replica_waits_for_as_long_as_it_takes() -> None:
    world = World(vllm(replicas=2)).whole("x").whole("y")
    ready(world.pods["x"])
    unplaced(world.pods["y-1"])
    world.wait(FINDS_WITHIN)
    assert drained(world) == ()


def unplaced(found: Object) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    found["status"] |= {
        "conditions": [condition | {"message": "0/1 nodes are available: 1 Insufficient gpu."}],
        "containerStatuses": [],
    }


def drained(world: World) -> tuple[str, ...]:
    return advance(world.rollout()).drain


def undrained(world: World) -> tuple[str, ...]:
    return advance(world.rollout()).undrain


def test_a_replica_without_all_its_nodes_does_not_keep_another_revision_out() -> None:
    world = World()
    world.leader()
    assert one_by_one(world.observed(), world.pool, {"another": 4}) == {"another": 4}


def test_what_a_follower_lacks_is_told_of_its_leader_by_name() -> None:
    world = World()
    world.leader()
    assert "x waits for x-1 to be made" in told(world)
    world.whole()
    unplaced(world.pods["x-1"])
    assert world.seen().unschedulable.endswith("1 Insufficient gpu. (follower x-1)")
    assert told(world) == "x waits for x-1, which has not started"
    crashed(world.pods["x"], "2026-01-01T00:04:00Z")
    assert world.seen().failing == "", "it ends for want of the follower"


def crashed(found: Object, ended: str) -> None:
    """Have an engine end again and again, and load once more."""
    end = {"terminated": {"finishedAt": ended, "exitCode": 1}}
    again = {"restartCount": 3, "started": False, "lastState": end}
    found["status"]["containerStatuses"][0] |= again


@pytest.mark.parametrize(("broken", "whose"), [("x", ""), ("x-1", " (follower x-1)")])
def test_nobody_is_blamed_for_ends_before_the_others_of_its_replica_came(
    broken: str, whose: str
) -> None:
    world = World().whole()
    crashed(world.pods[broken], "2025-12-31T23:59:00Z")
    assert world.seen().failing == "", "it loads, for the first time with all of them"
    crashed(world.pods[broken], "2026-01-01T00:04:00Z")
    assert world.seen().failing == f"worker exited with code 1, 3 times{whose}"


@pytest.mark.parametrize(("broken", "whose"), [("x", ""), ("x-1", " (follower x-1)")])
def test_a_download_that_fails_is_told_whoever_else_is_there(broken: str, whose: str) -> None:
    world = World().whole()
    state = world.pods[broken]["status"]
    state["conditions"][1]["status"] = "False"
    state["containerStatuses"] = []
    looping = {"name": "download", "restartCount": 4}
    looping |= {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    state["initContainerStatuses"] = [looping]
    assert world.seen().failing == f"download exited with code ?, 4 times{whose}"


def test_what_admission_put_beside_an_engine_is_left_as_it_is() -> None:
    sidecar = {"name": "proxy", "image": "proxy"}
    pool, found = made(vllm())
    template = found["spec"]["template"]
    template["spec"]["containers"].insert(0, sidecar)
    first, second = follower(pool, template, PLACE)["spec"]["containers"]
    assert first == sidecar
    assert second["args"][-1] == "--headless"
    assert not rejoins(template)
    world = World()
    statuses = world.leader()["status"]["containerStatuses"]
    statuses.insert(
        0, {"name": "proxy", "state": {"running": {"startedAt": "2026-02-02T00:00:00Z"}}}
    )
    assert world.seen().started == CAME


def told(world: World) -> str:
    (group,) = groups_of(world.observed(), world.pool)
    return awaited(group)


def test_what_stands_around_groups_stays_for_those_of_an_older_revision() -> None:
    world = World()
    assert len(group_children(world.observed(), world.pool)) == 3
    alone, _ = made(vllm(nodes=1, gpus=16))
    assert group_children(world.observed(), alone) == []
    there: dict[tuple[str, str], Object] = {("PodDisruptionBudget", "chat-default.followers"): {}}
    later = replace(world.observed(), children=there)
    assert len(group_children(later, alone)) == 3


def test_one_follower_may_be_evicted_of_all_that_the_revisions_have_now() -> None:
    world = World(vllm(nodes=4, gpus=4))

    def keeps(replicas: int, pool: EnginePool) -> int:
        world.deployment["spec"]["replicas"] = replicas
        budget = group_children(world.observed(), pool)[-1]
        kept: int = budget["spec"]["minAvailable"]
        return kept

    assert keeps(2, world.pool) == 2 * 3 - 1
    larger, _ = made(vllm(nodes=8, gpus=2))
    assert keeps(2, larger) == 2 * 3 - 1, "a new revision may never find its nodes"
    assert keeps(0, larger) == 0
