"""What Kubernetes objects mean to the gateway."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api import EngineType, Role
from penstock_contract.fleet import FleetCanary, FleetClass, WorkerState
from penstock_contract.labels import DEPLOYMENT, DRAINING, POOL, ROLE, ROLLOUT_HASH
from penstock_gateway.fleet.objects import Claim, claim, fleet, worker

READY = [{"type": "Ready", "status": "True"}]
HTTP = {"name": "http", "containerPort": 8000}
LOADING = {"name": "worker", "started": False}
PROXY = {"name": "http", "containerPort": 15020}
OTHERS_LACK = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}]


def pod(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "metadata": {
            "uid": "u1",
            "name": "m-x",
            "namespace": "team",
            "labels": {DEPLOYMENT: "m", POOL: "main", ROLE: "Decode", ROLLOUT_HASH: "abc"},
        },
        "spec": {"containers": [{"name": "worker", "ports": [HTTP]}]},
        "status": {
            "podIP": "10.0.0.7",
            "conditions": READY,
            "containerStatuses": [{"name": "worker", "started": True}],
        },
    }
    for path, value in changes.items():
        section, _, field = path.partition("__")
        found[section] = {**found[section], field: value}
    return found


def test_a_ready_pod_is_a_worker() -> None:
    found = worker(pod())
    assert found is not None
    assert (found.id, found.url, found.state) == ("u1", "http://10.0.0.7:8000", WorkerState.READY)
    assert (found.deployment, found.pool, found.revision) == ("team/m", "main", "abc")
    assert found.role is Role.DECODE


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata__deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"metadata__annotations": {DRAINING: "true"}},
        {"status__conditions": [{"type": "Ready", "status": "False"}]},
        {"status__conditions": []},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_pod_that_leaves_or_is_unwell_gets_nothing_new(changes: dict[str, Any]) -> None:
    found = worker(pod(**changes))
    assert found is not None
    assert found.state is WorkerState.DRAINING


@pytest.mark.parametrize(
    "changes",
    [
        {"status__podIP": ""},
        {"status__conditions": [], "status__containerStatuses": [LOADING]},
        {"status__conditions": [], "status__containerStatuses": []},
        {"metadata__labels": {}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_a_pod_that_cannot_have_answered_yet_is_no_worker(changes: dict[str, Any]) -> None:
    assert worker(pod(**changes)) is None


def beside(name: str, **state: bool) -> dict[str, Any]:
    return {"name": name, "ready": False, "started": False, **state}


@pytest.mark.parametrize(
    ("own", "state"),
    [
        ({}, None),
        ({"started": True}, WorkerState.DRAINING),
        ({"started": True, "ready": True}, WorkerState.READY),
    ],
)
@pytest.mark.parametrize("proxy", [{}, {"started": True}, {"started": True, "ready": True}])
def test_a_worker_is_told_by_its_own_container(
    own: dict[str, bool], state: WorkerState | None, proxy: dict[str, bool]
) -> None:
    statuses = [beside("istio-proxy", **proxy), beside("worker", **own), beside("log")]
    found = worker(pod(status__conditions=OTHERS_LACK, status__containerStatuses=statuses))
    assert (found.state if found else None) is state


def test_a_worker_whose_node_does_not_answer_gets_nothing_new() -> None:
    silent = [{"type": "Ready", "status": "False"}]
    statuses = [beside("worker", started=True, ready=True)]
    found = worker(pod(status__conditions=silent, status__containerStatuses=statuses))
    assert found is not None
    assert found.state is WorkerState.DRAINING


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"name": "metrics", "containerPort": 9}, {"name": "http", "containerPort": 80}], 80),
        ([{"containerPort": 9000}], 9000),
        ([], 8000),
    ],
)
def test_the_port_is_the_one_named_http(ports: list[dict[str, Any]], expected: int) -> None:
    proxy = {"name": "proxy", "ports": [PROXY]}
    found = worker(pod(spec__containers=[proxy, {"name": "worker", "ports": ports}]))
    assert found is not None
    assert found.url == f"http://10.0.0.7:{expected}"


def test_an_ipv6_address_is_bracketed() -> None:
    found = worker(pod(status__podIP="fd00::7"))
    assert found is not None
    assert found.url == "http://[fd00::7]:8000"


def test_an_unknown_role_serves_whole_requests() -> None:
    found = worker(pod(metadata__labels={DEPLOYMENT: "m", ROLE: "Juggler"}))
    assert found is not None
    assert found.role is Role.UNIFIED


def deployment(name: str = "m", created: str = "2026-01-01T00:00:00Z", **more: Any) -> Any:
    meta = {"name": name, "namespace": "team", "creationTimestamp": created}
    return {"metadata": meta, "spec": {"model": {}}, **more}


def test_a_model_is_called_by_its_name_or_else_its_deployments() -> None:
    named = {"model": {"name": "org/m", "aliases": ["m", "org/m"]}}
    assert claim(deployment()).names == ("m",)
    assert claim(deployment(spec=named)).names == ("org/m", "m")


def test_adapters_are_models_of_their_own() -> None:
    spec = {"model": {"name": "m", "adapters": [{"name": "sql", "uri": "hf://o/sql"}]}}
    (found,) = fleet([claim(deployment(spec=spec))], [], 1)[0].models
    assert (found.name, found.aliases, found.adapters) == ("m", (), ("sql",))


def test_an_adapters_name_goes_to_the_oldest_too() -> None:
    old = Claim("n/old", ("m",), 1, adapters=("sql", "m"))
    new = Claim("n/new", ("sql", "other"), 2, adapters=("law",))
    lost = Claim("n/lost", ("other",), 3, adapters=("late",))
    known, conflicts = fleet([lost, new, old], [], 1)
    assert [(m.name, m.adapters, m.deployment) for m in known.models] == [
        ("m", ("sql",), "n/old"),
        ("other", ("law",), "n/new"),
    ]
    assert [(c.name, c.loser) for c in conflicts] == [("sql", "n/new"), ("other", "n/lost")]


def test_a_canary_is_told_from_the_status() -> None:
    canary = {"revision": "abc", "weight": 10, "since": "2026-01-01T00:00:00Z"}
    found = claim(deployment(status={"canary": canary}))
    assert found.canary == FleetCanary(revision="abc", weight=10)
    assert claim(deployment(status={})).canary is None


@pytest.mark.parametrize(
    ("arguments", "parsers"),
    [
        (["--tool-call-parser=hermes", "--reasoning_parser", "qwen3"], ("hermes", "qwen3")),
        (["--config", "flags.yaml", "--dtype=auto"], ("flags.yaml",)),
        (['--override-generation-config={"a": "--config"}'], ()),
    ],
)
def test_the_engine_and_its_parsers_are_told(
    arguments: list[str], parsers: tuple[str, ...]
) -> None:
    spec = {"model": {}, "engine": {"type": "VLLM", "extraArgs": arguments, "newer": 1}}
    (found,) = fleet([claim(deployment(spec=spec))], [], 1)[0].models
    assert (found.engine, found.parsers) == (EngineType.VLLM, parsers)
    other = {"model": {}, "engine": {"type": "Other"}}
    assert claim(deployment(spec=other)).engine is EngineType.PENSTOCK


def test_how_requests_wait_is_told_from_the_spec() -> None:
    spec = {
        "model": {},
        "engine": {"maxNumSeqs": 8},
        "queue": {"timeout": "10s"},
        "requestClasses": [
            {"name": "batch", "priority": -10, "queueTimeout": "10m"},
            {"name": "standard", "default": True},
        ],
    }
    queue = claim(deployment(spec=spec)).queue
    assert queue is not None
    assert (queue.per_worker, queue.timeout, queue.cold_start_timeout) == (8, 10.0, 300.0)
    assert queue.request_class("batch") == FleetClass(name="batch", priority=-10, timeout=600.0)
    assert queue.request_class("auto").name == "standard"


def test_of_a_newer_versions_queue_the_known_fields_count() -> None:
    spec = {"model": {}, "queue": {"patience": "much", "maxRequests": 7}}
    queue = claim(deployment(spec=spec)).queue
    assert queue is not None
    assert queue.max_requests == 7


def test_a_spec_with_other_words_is_served_without_a_queue() -> None:
    assert claim(deployment(spec={"model": {}, "queue": {"timeout": "much"}})).queue is None


claims = st.lists(
    st.builds(
        Claim,
        deployment=st.sampled_from([f"n/{n}" for n in range(6)]),
        names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True).map(tuple),
        created=st.integers(0, 3),
    ),
    max_size=6,
    unique_by=lambda c: c.deployment,
)


@pytest.mark.parametrize(
    ("slo", "seconds"),
    [
        ({"tpot": {"target": "50ms"}}, (0.05, None)),
        ({"ttft": {"target": "1s"}}, (None, 1.0)),
        ({"tpot": 1}, (None, None)),
    ],
)
def test_the_objectives_are_told_from_the_spec(
    slo: dict[str, Any], seconds: tuple[float | None, float | None]
) -> None:
    found = claim(deployment(spec={"model": {}, "slo": slo}))
    known, _ = fleet([found], [], 1)
    assert [(model.tpot, model.ttft) for model in known.models] == [seconds]


@given(claims, st.randoms())
def test_each_name_goes_to_the_oldest_whatever_order_they_come_in(
    found: list[Claim], random: Any
) -> None:
    known, conflicts = fleet(found, [], 1)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert fleet(shuffled, [], 1) == (known, conflicts)
    holders = {name: m.deployment for m in known.models for name in (m.name, *m.aliases)}
    for name in {name for c in found for name in c.names}:
        asking = [c for c in found if name in c.names]
        oldest = min(asking, key=lambda c: (c.created, c.deployment))
        assert holders[name] == oldest.deployment
        losers = {c.loser for c in conflicts if c.name == name}
        assert losers == {c.deployment for c in asking} - {oldest.deployment}


def test_a_deployment_that_lost_its_name_is_served_by_its_aliases() -> None:
    old, new = Claim("n/old", ("m",), 1), Claim("n/new", ("m", "other"), 2)
    known, (conflict,) = fleet([new, old], [], 1)
    assert [(m.name, m.deployment) for m in known.models] == [("m", "n/old"), ("other", "n/new")]
    assert "n/new" in str(conflict)
    assert "'m'" in str(conflict)
