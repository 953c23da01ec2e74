"""What agents say becomes annotations that gateways read, and a status; said once, not again."""

from dataclasses import replace

from deployments import deployment

from penstock_contract.adapters import AdapterFound, AdapterReport, AdapterState
from penstock_contract.api import EnginePool
from penstock_contract.api.status import AdapterStatus
from penstock_contract.labels import ADAPTERS
from penstock_contract.worker_pod import OTHERS_NOT_READY, is_ready
from penstock_operator.cluster.actions import Merge
from penstock_operator.cluster.adapter_states import adapter_states, agents, announcements
from penstock_operator.cluster.observed import Gateways, Observed, Pod
from penstock_operator.plan import plan

INFD = deployment(
    model={
        "uri": "hf://org/m",
        "adapters": [
            {"name": "sql", "uri": "hf://org/sql"},
            {"name": "law", "uri": "s3://loras/law"},
            {"name": "odd", "uri": "hf://org/odd", "revision": "../../etc"},
        ],
    }
)
(POOL,) = plan(INFD, {}).pools
READY = {
    "sql": AdapterFound(state=AdapterState.READY, uri="hf://org/sql", revision="main"),
    "law": AdapterFound(state=AdapterState.READY, uri="s3://loras/law", revision="main"),
}
ALL = AdapterReport(loaded=("law", "sql"), adapters=READY, tried=True)


def pod(name: str, adapters: tuple[str, ...] | None = (), *, ready: bool = True) -> Pod:
    return Pod(
        uid=name, name=name, pool="default", revision=POOL.spec.rollout_hash, version="7",
        ready=ready, deleting=False, draining=False, address="10.0.0.1", failing="", waiting="",
        starting=False, unschedulable="", agent=True, adapters=adapters,
    )  # fmt: skip


def states(observed: Observed, *pools: EnginePool) -> list[AdapterStatus]:
    return adapter_states(observed, INFD, pools or [POOL])


def seen(*pods: Pod, **reports: AdapterReport) -> Observed:
    return Observed(
        raw={}, deployment=INFD, invalid="", pools={POOL.metadata.name: POOL}, children={},
        workloads={}, pods=pods, gateways=Gateways(), served=frozenset(), adapters=reports,
    )  # fmt: skip


def test_agents_are_told_all_that_can_be_brought_and_what_gateways_know() -> None:
    found = agents(seen(pod("a", ("sql",)), replace(pod("b"), address="")), [POOL])
    assert list(found) == ["a"]
    assert found["a"].wanted.announced == ("sql",)
    folders = {one.name: one.folder for one in found["a"].wanted.adapters}
    assert folders == {"sql": "hf/org/sql@main", "law": "s3/loras/law@main"}


def test_what_a_worker_has_is_announced_once() -> None:
    (action,) = announcements(seen(pod("a"), pod("b", ("law", "sql")), a=ALL, b=ALL))
    assert isinstance(action, Merge)
    assert (action.kind, action.name) == ("Pod", "a")
    assert action.patch["metadata"]["annotations"] == {ADAPTERS: "law,sql"}
    assert announcements(seen(pod("a", ("law", "sql")), a=ALL)) == []
    starting = AdapterReport(loaded=("sql",), adapters=READY)
    assert announcements(seen(pod("a", ready=False), a=starting)) == [], "until all were tried"


def test_the_status_counts_workers_and_names_what_failed() -> None:
    failed = AdapterFound(
        state=AdapterState.FAILED, uri="s3://loras/law", revision="main", message="no such bucket"
    )
    other = replace_report(ALL, law=failed)
    found = {one.name: one for one in states(seen(pod("a"), pod("b"), a=ALL, b=other))}
    assert (found["sql"].state, found["sql"].ready, found["sql"].workers) == ("Ready", 2, 2)
    assert (found["law"].state, found["law"].ready) == ("Failed", 1)
    assert found["law"].message == "b: no such bucket"
    assert found["odd"].state == "Failed"
    assert found["odd"].message.startswith("spec.model.adapters[2].revision")


def test_what_had_the_name_before_does_not_count() -> None:
    former = AdapterFound(state=AdapterState.READY, uri="hf://org/former", revision="main")
    report = replace_report(ALL, sql=former)
    sql, *_ = states(seen(pod("a"), a=report))
    assert (sql.state, sql.ready, sql.workers) == ("Loading", 0, 1)
    assert sql.message == "0 of 1 workers have it"


def test_workers_from_before_there_were_agents_have_what_they_began_with() -> None:
    """A newer operator leaves them alone: they have no agent, and nothing is written on them."""
    sql, *_ = states(seen(replace(pod("a", None), agent=False)))
    assert (sql.state, sql.ready, sql.workers) == ("Ready", 1, 1)
    older = replace(pod("a", None), agent=False, revision="older")
    sql, *_ = states(seen(older))
    assert (sql.state, sql.ready, sql.workers) == ("Loading", 0, 1)


def test_workers_of_an_older_revision_lack_what_the_new_one_begins_with() -> None:
    """The stored pool may not have been written yet; the plan counts."""
    mounted = {"name": "mounted", "uri": "pvc://claim/mounted"}
    infd = deployment(model={"uri": "hf://org/m", "adapters": [mounted]})
    observed = replace(seen(pod("a"), a=AdapterReport(tried=True)), deployment=infd)
    (found,) = adapter_states(observed, infd, plan(infd, observed.pools).pools)
    assert (found.state, found.message) == ("Loading", "0 of 1 workers have it")


def test_a_worker_is_ready_when_its_agent_says_so() -> None:
    def found(worker: bool, agent: bool) -> bool:
        statuses = [
            {"name": "worker", "ready": worker},
            {"name": "adapters", "ready": agent},
            {"name": "mesh", "ready": False},
        ]
        ready = {"type": "Ready", "status": "False", "reason": OTHERS_NOT_READY}
        return is_ready({"status": {"conditions": [ready], "containerStatuses": statuses}})

    assert found(worker=True, agent=True), "what else stands beside it does not count"
    assert not found(worker=True, agent=False)
    assert not found(worker=False, agent=True)


def replace_report(report: AdapterReport, **changes: AdapterFound) -> AdapterReport:
    return report.model_copy(update={"adapters": {**report.adapters, **changes}})
