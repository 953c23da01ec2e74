"""Status: the truth about what was seen, and no change without a change."""

from dataclasses import replace
from typing import Any

import pytest
from deployments import deployment

from penstock_contract.api import Condition, InferenceDeploymentStatus
from penstock_contract.api.status import AdapterStatus, LastScale
from penstock_contract.conditions import CONDITIONS, ConditionType, Reason
from penstock_operator.manifests import Unsupported
from penstock_operator.rollout import Phase
from penstock_operator.snapshot import PoolSnapshot, ScalingReport, Snapshot
from penstock_operator.status import revision, status

THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
UP = PoolSnapshot("default", desired=2, revision="b", ready=2)


def seen(*pools: PoolSnapshot, router_ready: bool = True, **more: Any) -> Snapshot:
    return Snapshot(pools or (UP,), router_ready, **more)


def conditions(snapshot: Snapshot, **spec: Any) -> dict[str, Condition]:
    found = status(deployment(**spec), snapshot, None, NOW)
    return {c.type: c for c in found.conditions}


def reason(kind: str, snapshot: Snapshot) -> tuple[str, str]:
    found = conditions(snapshot)[kind]
    return found.status, found.reason


def test_a_deployment_whose_workers_all_serve_is_ready() -> None:
    assert {c.status for c in conditions(seen()).values()} == {"True"}


@pytest.mark.parametrize("declared", CONDITIONS, ids=lambda d: d.type)
@pytest.mark.parametrize(
    "snapshot",
    [
        seen(),
        seen(router_ready=False),
        seen(names_taken="m is served for a/b", nameless=True),
        seen(PoolSnapshot("default", 0)),
        seen(PoolSnapshot("default", 2)),
        seen(PoolSnapshot("default", 2, failure="exit 1")),
        seen(PoolSnapshot("default", 2, unschedulable="no GPU")),
        seen(PoolSnapshot("default", 2, ready=2, outdated=1)),
        seen(PoolSnapshot("default", 2), model_missing="no such claim"),
        seen(PoolSnapshot("default", 2), unsupported=Unsupported("spec.model.uri", "no")),
        seen(PoolSnapshot("default", 2), unsupported=Unsupported("spec.engine.type", "no")),
        seen(PoolSnapshot("default", 2), scaling=ScalingReport(Reason.SCALING)),
        seen(PoolSnapshot("default", 2), adapters=(AdapterStatus(name="a", message="so"),)),
        seen(PoolSnapshot("default", 2), scaling=ScalingReport(Reason.METRICS_STALE, "gone")),
    ],
)
def test_every_reason_is_a_declared_one(declared: Any, snapshot: Snapshot) -> None:
    found = conditions(snapshot)
    if declared.type is ConditionType.SCALING_ACTIVE and snapshot.scaling is None:
        assert declared.type not in found, "nothing is sized: nothing is told of it"
    elif declared.type is ConditionType.ADAPTERS_READY and not snapshot.adapters:
        assert declared.type not in found, "there are none: nothing is told of them"
    else:
        assert found[declared.type].reason in declared.reasons


def test_why_a_revision_was_taken_back_stays_told_when_its_pods_are_gone() -> None:
    def taken_back(phase: Phase, words: str) -> Snapshot:
        return seen(PoolSnapshot("default", 2, ready=2, phase=phase, rollout=words))

    told = status(deployment(), taken_back(Phase.ROLLING_BACK, "exit 2: --no-such"), None, THEN)
    later = status(deployment(), taken_back(Phase.ROLLED_BACK, "b stays out"), told, NOW)
    assert later == told
    found = {c.type: c for c in later.conditions}["RolloutComplete"]
    assert (found.reason, found.message) == ("RolledBack", "default: exit 2: --no-such")
    well = status(deployment(), seen(), later, NOW)
    assert {c.message for c in well.conditions} == {""}


def test_a_deployment_that_no_name_leads_to_is_not_ready() -> None:
    words = "spec.model.name: 'm' is served for a/b, which is older; choose another name"
    found = conditions(seen(names_taken=words, nameless=True))
    for kind in ("Ready", "RouterReady"):
        assert (found[kind].status, found[kind].reason) == ("False", "NameTaken")
        assert found[kind].message == words


def test_a_deployment_that_lacks_an_alias_is_ready_and_told() -> None:
    found = conditions(seen(names_taken="spec.model.aliases[0]: taken"))
    assert {c.status for c in found.values()} == {"True"}
    assert found["RouterReady"].message == "spec.model.aliases[0]: taken"


def test_a_change_of_size_stays_in_the_status_until_the_next_one() -> None:
    change = LastScale(**{"from": 1}, to=2, time="2026-01-01T00:00:00Z", reason="tpot")
    report = ScalingReport(Reason.SCALING, "", {"default": change})
    first = status(deployment(), seen(PoolSnapshot("default", 2), scaling=report), None, NOW)
    assert first.pools[0].last_scale == change
    later = seen(PoolSnapshot("default", 2), scaling=ScalingReport(Reason.SCALING))
    assert status(deployment(), later, first, NOW).pools[0].last_scale == change


def test_what_the_autoscaler_said_holds_until_it_says_more() -> None:
    scaled = deployment({"name": "default", "scaling": {"minReplicas": 1, "maxReplicas": 2}})
    report = ScalingReport(Reason.METRICS_STALE, "no worker answers")
    first = status(scaled, seen(scaling=report), None, THEN)
    assert status(scaled, seen(), first, NOW) == first
    told = {c.type for c in status(deployment(), seen(), first, NOW).conditions}
    assert ConditionType.SCALING_ACTIVE not in told


@pytest.mark.parametrize("router_ready", [True, False])
@pytest.mark.parametrize("draining", [0, 2])
def test_ready_is_never_true_without_a_worker_that_generated_a_token(
    router_ready: bool, draining: int
) -> None:
    snapshot = seen(PoolSnapshot("default", 2, draining=draining), router_ready=router_ready)
    assert conditions(snapshot)["Ready"].status == "False"


def test_prefill_workers_alone_do_not_make_a_deployment_ready() -> None:
    pools = (
        {"name": "prefill", "role": "Prefill", "replicas": 1},
        {"name": "decode", "role": "Decode", "replicas": 1},
    )
    snapshot = seen(PoolSnapshot("prefill", 1, ready=1), PoolSnapshot("decode", 1))
    found = status(deployment(*pools), snapshot, None, NOW)
    ready = next(c for c in found.conditions if c.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "NoReadyWorkers")


def test_one_worker_of_two_serves_but_the_pool_is_not_as_desired() -> None:
    found = conditions(seen(PoolSnapshot("default", 2, ready=1)))
    assert found["Ready"].status == "True"
    assert found["PoolsReady"].status == "False"
    assert found["PoolsReady"].message == "default: 1 of 2 workers ready"


def test_reasons_say_what_hinders() -> None:
    assert reason("Ready", seen(PoolSnapshot("default", 0))) == ("False", "ScaledToZero")
    assert reason("Ready", seen(router_ready=False)) == ("False", "RouterNotReady")
    lacking = seen(PoolSnapshot("default", 2, unschedulable="0/3 nodes have a GPU"))
    assert reason("PoolsReady", lacking) == ("False", "InsufficientCapacity")
    assert "0/3 nodes have a GPU" in conditions(lacking)["PoolsReady"].message


def test_the_gravest_trouble_of_any_pool_is_the_reason_and_all_are_told() -> None:
    waiting = PoolSnapshot("a", 1)
    broken = PoolSnapshot("b", 1, failure="exit 1")
    found = conditions(seen(waiting, broken))["PoolsReady"]
    assert found.reason == "PodsFailing"
    assert found.message == "a: 0 of 1 workers ready; b: 0 of 1 workers ready: exit 1"


def test_a_spec_that_is_not_built_says_so_while_the_old_revision_serves_on() -> None:
    gap = Unsupported("spec.model.uri", "s3:// is not available; use pvc://")
    found = conditions(seen(UP, unsupported=gap))
    assert found["ModelResolved"].reason == "UnsupportedSource"
    assert found["ModelResolved"].message.startswith("spec.model.uri: s3://")
    assert found["Ready"].status == "True"


def test_nothing_changes_when_nothing_changed() -> None:
    infd, snapshot = deployment(), seen()
    first = status(infd, snapshot, None, THEN)
    assert status(infd, snapshot, first, NOW) == first


def test_a_transition_time_moves_only_with_its_status() -> None:
    infd = deployment()
    up = status(infd, seen(), None, THEN)
    degraded = status(infd, seen(PoolSnapshot("default", 2, ready=1)), up, NOW)
    times = {c.type: c.last_transition_time for c in degraded.conditions}
    assert times["PoolsReady"] == NOW
    assert times["Ready"] == THEN


def test_a_rollout_is_complete_once_no_older_worker_is_left() -> None:
    infd = deployment()
    new = revision([UP])
    during = status(infd, seen(replace(UP, outdated=1)), None, THEN)
    assert (during.revision.current, during.revision.updated) == ("", new)
    after = status(infd, seen(), during, NOW)
    assert (after.revision.current, after.revision.updated) == (new, new)


def test_a_rollout_that_hangs_says_why_while_the_old_revision_serves() -> None:
    hung = seen(PoolSnapshot("default", 2, ready=2, outdated=2, failure="ImagePullBackOff"))
    assert reason("PoolsReady", hung) == ("False", "PodsFailing")
    assert reason("RolloutComplete", hung) == ("False", "Stalled")
    assert reason("Ready", hung) == ("True", "Serving")


def test_a_worker_that_dies_does_not_reopen_a_rollout() -> None:
    infd = deployment()
    done = status(infd, seen(), None, THEN)
    later = status(infd, seen(replace(UP, ready=1)), done, NOW)
    rollout = next(c for c in later.conditions if c.type == ConditionType.ROLLOUT_COMPLETE)
    assert rollout.status == "True"


def test_endless_words_of_others_are_cut() -> None:
    found = conditions(seen(PoolSnapshot("default", 2, failure="x" * 100_000)))
    assert len(found["PoolsReady"].message) <= 1024


def test_the_summary_counts_over_all_pools() -> None:
    found = status(deployment(), seen(UP, PoolSnapshot("b", 3, ready=1)), None, NOW)
    assert found.pools_summary == "3/5"
    assert InferenceDeploymentStatus.model_validate(found.to_json()) == found
