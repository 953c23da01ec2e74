"""Explanations, records and memories of decisions."""

from dataclasses import replace
from pathlib import Path

import pytest
from exported import Exported

from penstock_contract.api import (
    Condition,
    ConditionStatus,
    InferenceDeploymentStatus,
    PoolStatus,
    Role,
)
from penstock_contract.conditions import ConditionType, Reason
from penstock_operator.autoscaling.evaluation import Evaluation, Memory, evaluate
from penstock_operator.autoscaling.explain import explain, recount
from penstock_operator.autoscaling.memory import dump, load
from penstock_operator.autoscaling.record import read, write
from penstock_operator.autoscaling.report import last_scale, reason
from penstock_operator.scaling.signal import Health
from penstock_operator.scaling.spec import Objective, PoolBounds, ScalingSpec

SPEC = ScalingSpec(
    pools=(PoolBounds("default", Role.UNIFIED, minimum=1, maximum=40),),
    ttft=Objective(0.99, 2.0),
    tpot=Objective(0.99, 0.1),
    down_window=180.0,
)


def thought_after(
    ticks: int, rate: float = 20.0, spec: ScalingSpec = SPEC
) -> tuple[Memory, Evaluation]:
    live, memory = Exported(rate=rate), Memory()
    for _ in range(ticks):
        live.pass_time(15.0)
        memory, evaluation = evaluate(memory, live.topology(), live.scrapes(), spec, live.time)
    return memory, evaluation


def test_an_explanation_can_be_followed_by_hand() -> None:
    _, evaluation = thought_after(60)
    decision = evaluation.record.decisions.pools["default"]
    text = explain("chat", evaluation.record.seen, SPEC, decision, (), evaluation.difference)
    assert text.startswith("chat/default: from 2 to 4 (tpot needs 3.")
    for words in (
        "λ, arrivals", "20/s", "prefill 1000 tokens · 100 µs = 100 ms",
        "decode 200 tokens · (100 µs + 100 ns · 1100 context) = 42 ms", "142 ms", "2.84",
        "<- binds", "metrics: fresh; L and λ·W differ by 0%",
    ):  # fmt: skip
        assert words in text, words


def test_an_explanation_says_what_is_missing() -> None:
    live = Exported(rate=5.0)
    live.pass_time(15.0)
    _, evaluation = evaluate(Memory(), live.topology(), {}, SPEC, live.time)
    decision = evaluation.record.decisions.pools["default"]
    text = explain("chat", evaluation.record.seen, SPEC, decision, ["the scrape fails"])
    assert "unknown" in text
    assert "nothing shrinks" in text
    assert "the scrape fails" in text


def test_a_record_is_decided_the_same_way_again() -> None:
    for ticks in (1, 2, 30):
        record = thought_after(ticks)[1].record
        (back,) = read(write(record))
        assert back == record
        assert back.again() == record.decisions


def test_a_damaged_record_is_named() -> None:
    line = write(thought_after(2)[1].record)
    with pytest.raises(ValueError, match="line 2"):
        list(read(f"{line}\n{line[:-9]}\n"))


def test_recorded_decisions_of_a_real_run_are_made_again() -> None:
    """Recorded by `make demo-autoscale`: real workers under a ramp of load."""
    log = (Path(__file__).parent / "golden" / "ramp.jsonl").read_text()
    records = list(read(log))
    sizes = [record.decisions.pools["default"].replicas for record in records]
    assert max(sizes) > 1
    assert sizes[-1] == 1
    for record in records:
        assert record.again() == record.decisions


def test_memory_survives_and_a_restart_never_shrinks() -> None:
    memory, evaluation = thought_after(60)
    now = evaluation.record.now
    back = load(dump(memory), now + 30)
    before, after = (m.state.pools["default"].forecast for m in (memory, back))
    assert after.level == pytest.approx(before.level)
    assert after.bound() == pytest.approx(before.bound(), rel=0.02)
    assert back.learned.lengths == memory.learned.lengths
    assert back.learned.curves["default"].a == pytest.approx(memory.learned.curves["default"].a)
    idle = Exported(["worker-1", "worker-2", "worker-3", "worker-4"], time=now + 30)
    for _ in range(10):
        idle.pass_time(15.0)
        back, evaluation = evaluate(back, idle.topology(), idle.scrapes(), SPEC, idle.time)
        assert evaluation.record.decisions.pools["default"].replicas >= 4


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 3}'])
def test_a_damaged_memory_is_a_new_one(text: str) -> None:
    assert load(text, 0.0) == Memory()


def test_an_old_memory_keeps_what_requests_are_worth_only() -> None:
    memory, evaluation = thought_after(30)
    back = load(dump(memory), evaluation.record.now + 86_400)
    assert back.learned.curves["default"].a == pytest.approx(memory.learned.curves["default"].a)
    assert back.state == Memory().state


def test_a_memory_of_hours_is_small() -> None:
    memory, _ = thought_after(480)
    levels = memory.state.pools["default"].forecast.levels
    assert all(len(level.errors) > 400 for level in levels)
    assert len(dump(memory)) < 8192


def test_the_condition_tells_the_gravest_trouble() -> None:
    decision = thought_after(30)[1].record.decisions.pools["default"]
    assert reason([decision], []) == (Reason.SCALING, "")
    stale = replace(decision, health=Health.STALE)
    assert reason([decision, stale], [])[0] is Reason.METRICS_STALE
    assert reason([decision], ["no metrics"]) == (Reason.METRICS_STALE, "no metrics")
    assert reason([replace(decision, need=None)], [])[0] is Reason.LEARNING
    limited = replace(decision, guards=("budget of 4 GPUs",))
    assert reason([limited], []) == (Reason.BUDGET_LIMITED, "default: budget of 4 GPUs")
    hopeless = replace(SPEC, tpot=Objective(0.9, 0.01))
    infeasible = thought_after(30, spec=hopeless)[1].record.decisions.pools["default"]
    assert reason([stale, infeasible], ["no metrics"])[0] is Reason.OBJECTIVE_INFEASIBLE


def test_the_last_change_carries_its_numbers() -> None:
    decision = thought_after(60)[1].record.decisions.pools["default"]
    change = last_scale(decision, "2026-01-01T00:00:00Z").to_json()
    assert (change["from"], change["to"]) == (2, 4)
    assert float(change["inputs"]["level"]) == pytest.approx(2.84, rel=0.05)
    assert "needed.tpot" in change["inputs"]


def test_a_status_alone_tells_the_last_change_with_its_arithmetic() -> None:
    assert recount("chat", InferenceDeploymentStatus()) == "chat: nothing has been decided yet"
    decision = thought_after(60)[1].record.decisions.pools["default"]
    change = last_scale(decision, "2026-01-01T00:00:00Z")
    condition = Condition(
        type=ConditionType.SCALING_ACTIVE,
        status=ConditionStatus.FALSE,
        reason=Reason.METRICS_STALE,
        message="no metrics",
        last_transition_time="2026-01-01T00:00:00Z",
    )
    pools = [
        PoolStatus(name="default", desired=4, ready=3, last_scale=change),
        PoolStatus(name="more", desired=1, ready=1),
    ]
    text = recount("chat", InferenceDeploymentStatus(conditions=[condition], pools=pools))
    for words in (
        "chat/default: 3 of 4 workers ready",
        "last change: from 2 to 4 at 2026-01-01T00:00:00Z (tpot needs 3.",
        "level / (1 - a / TPOT objective)  <- binds",
        "chat/more: 1 of 1 workers ready; its size was never changed",
        "autoscaler: MetricsStale: no metrics",
    ):
        assert words in text, text
