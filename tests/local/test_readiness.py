"""When `up` may say Ready, and when it gives up."""

from typing import Any

from penstock_operator.local.readiness import Failed, Ready, Waiting, readiness_of


def status(
    *,
    pools: str = "True",
    rollout: str = "True",
    generation: int = 1,
    failures: tuple[dict[str, Any], ...] = (),
    gateway: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "gateway": gateway or {"state": "Ready", "failuresInARow": 0, "lastEnd": None},
        "items": [
            {
                "metadata": {"name": "a"},
                "status": {
                    "observedGeneration": generation,
                    "conditions": [
                        {"type": "PoolsReady", "status": pools, "message": "1 of 2 ready"},
                        {"type": "RolloutComplete", "status": rollout, "message": "1 outdated"},
                    ],
                },
                "failures": failures,
            }
        ],
    }


def failure(in_a_row: int, *, over: bool = False) -> dict[str, Any]:
    return {
        "process": "a-default-3",
        "lastEnd": "exited with code 1",
        "failuresInARow": in_a_row,
        "over": over,
    }


def test_all_conditions_together_are_ready() -> None:
    assert readiness_of(status(), {"a": 1}) == Ready()


def test_before_the_first_status_it_waits() -> None:
    assert isinstance(readiness_of(None, {"a": 1}), Waiting)


def test_an_older_generation_is_not_ready_whatever_it_says() -> None:
    assert readiness_of(status(generation=1), {"a": 2}) == Waiting("a is not planned yet")


def test_a_deployment_that_is_not_listed_yet_is_waited_for() -> None:
    assert readiness_of(status(), {"b": 1}) == Waiting("b is not planned yet")


def test_missing_workers_and_old_revisions_are_waited_for() -> None:
    assert readiness_of(status(pools="False"), {"a": 1}) == Waiting("a: 1 of 2 ready")
    assert readiness_of(status(rollout="False"), {"a": 1}) == Waiting("a: 1 outdated")


def test_a_crash_loop_is_hopeless_after_three_times() -> None:
    assert isinstance(
        readiness_of(status(pools="False", failures=(failure(2),)), {"a": 1}), Waiting
    )
    readiness = readiness_of(status(pools="False", failures=(failure(3),)), {"a": 1})
    assert readiness == Failed("a-default-3 exited with code 1, 3 times in a row", "a-default-3")


def test_failures_that_are_over_do_not_count() -> None:
    past = (failure(9, over=True),)
    assert isinstance(readiness_of(status(pools="False", failures=past), {"a": 1}), Waiting)
    assert readiness_of(status(failures=(failure(9),)), {"a": 1}) == Ready()


def test_a_gateway_that_keeps_dying_is_hopeless() -> None:
    gateway = {"state": "Absent", "failuresInARow": 3, "lastEnd": "exited with code 1"}
    readiness = readiness_of(status(gateway=gateway), {"a": 1})
    assert readiness == Failed("the gateway exited with code 1", "gateway")


def test_without_a_gateway_nothing_is_ready() -> None:
    gateway = {"state": "Starting", "failuresInARow": 0, "lastEnd": None}
    assert isinstance(readiness_of(status(gateway=gateway), {"a": 1}), Waiting)
