"""Learning what a step costs from sums over steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.step_cost import STEP_MOMENTS, StepCost, StepMoments, fit

COST = st.builds(
    StepCost,
    st.floats(0.001, 0.1),
    st.floats(1e-6, 1e-3),
    st.floats(1e-6, 1e-2),
    st.floats(1e-9, 1e-5),
)
STEPS = [(0, 1, 30), (0, 8, 900), (256, 0, 0), (64, 16, 9000), (8, 2, 40000), (512, 4, 100)]


def sums(cost: StepCost, steps: list[tuple[int, int, int]] = STEPS) -> dict[str, float]:
    found = StepMoments()
    for step in steps:
        found.add(cost.seconds(*step), *step)
    return found.sums


def parts(cost: StepCost) -> list[float]:
    return [cost.step, cost.prefill_token, cost.sequence, cost.kv_token]


@given(COST)
def test_an_exact_cost_is_found(cost: StepCost) -> None:
    assert parts(fit(sums(cost))) == pytest.approx(parts(cost), rel=1e-2, abs=1e-9)


@given(COST)
def test_windows_add_up(cost: StepCost) -> None:
    first, second, whole = sums(cost, STEPS[:3]), sums(cost, STEPS[3:]), sums(cost)
    added = {name: first[name] + second[name] for name in STEP_MOMENTS}
    assert added == pytest.approx(whole)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1), st.integers(0, 8192), st.integers(0, 256), st.integers(0, 10**6)
        ),
        max_size=20,
    )
)
def test_no_coefficient_is_negative(steps: list[tuple[float, int, int, int]]) -> None:
    found = StepMoments()
    for step in steps:
        found.add(*step)
    assert min(parts(fit(found.sums))) >= 0


def test_what_was_never_seen_is_as_believed_before() -> None:
    prior = StepCost(0.02, 3e-4, 1e-3, 1e-6)
    truth = StepCost(0.01, 3e-4, 2e-3, 1e-6)
    decoding = [(0, count, 100 * count) for count in (1, 2, 4, 8, 16, 32)] * 50
    found = fit(sums(truth, decoding), prior)
    assert found.prefill_token == pytest.approx(prior.prefill_token)
    assert found.step == pytest.approx(truth.step, rel=0.1)


def test_nothing_seen_is_what_was_believed() -> None:
    prior = StepCost(0.02, 3e-4, 1e-3, 1e-6)
    assert parts(fit(StepMoments().sums, prior)) == pytest.approx(parts(prior))
    assert parts(fit(StepMoments().sums)) == [0.0] * 4
