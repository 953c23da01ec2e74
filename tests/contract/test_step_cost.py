"""Learning what a step costs from sums over steps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.step_cost import STEP_MOMENTS, StepCost, StepMoments, Totals, fit, scaled

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


@given(COST, st.floats(0.001, 1), st.integers(0, 256), st.integers(0, 10**6))
def test_prompts_get_what_decoding_leaves_of_a_step(
    cost: StepCost, seconds: float, sequences: int, kv: int
) -> None:
    tokens = cost.prefill_within(seconds, sequences, kv)
    decoding = cost.seconds(0, sequences, kv)
    if decoding <= 0.9 * seconds:
        assert cost.seconds(tokens, sequences, kv) == pytest.approx(seconds)
    elif decoding < seconds:
        assert cost.prefill_token * tokens == pytest.approx(0.1 * seconds)
    else:  # the objective is lost
        assert cost.prefill_token * tokens == pytest.approx(decoding)


def test_prompts_that_cost_nothing_are_not_bounded() -> None:
    assert StepCost(0.01, 0.0, 1e-4, 1e-7).prefill_within(0.001, 8, 1000) == float("inf")


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


def noisy(cost: StepCost, scatter: float, pauses: float) -> tuple[StepMoments, Totals]:
    """Return steps of a quiet worker on a busy machine: small batches, and some that were held up.

    The seconds scatter by a factor whose logarithm is normal, with a mean of 1.
    """
    draw = random.Random(11)
    found, seconds, prefill, sequences, kv = StepMoments(), 0.0, 0, 0, 0
    for _ in range(20_000):
        step = (draw.choice([0, 0, 0, 40, 200]), draw.randint(1, 4), draw.randint(50, 2000))
        took = cost.seconds(*step) * draw.lognormvariate(-(scatter**2) / 2, scatter)
        took += 30 * cost.step if draw.random() < pauses else 0.0
        found.add(took, *step)
        seconds += took
        prefill, sequences, kv = prefill + step[0], sequences + step[1], kv + step[2]
    return found, Totals(20_000, seconds, prefill, sequences, kv)


def test_a_step_s_fixed_cost_is_found_on_a_busy_machine() -> None:
    truth = StepCost(0.002, 3e-5, 2e-4, 3e-7)
    found, _ = noisy(truth, scatter=0.3, pauses=0.01)
    assert fit(found.sums).step == pytest.approx(truth.step, rel=0.2)


def test_the_scale_is_that_of_all_steps_together() -> None:
    truth = StepCost(0.002, 3e-5, 2e-4, 3e-7)
    found, totals = noisy(truth, scatter=0.3, pauses=0.0)
    cost = scaled(fit(found.sums), totals)
    for one, other in zip(parts(cost), parts(truth), strict=True):
        assert one == pytest.approx(other, rel=0.1)
    assert scaled(cost, Totals()) == cost
    assert scaled(StepCost(0, 0, 0, 0), totals) == StepCost(0, 0, 0, 0)


@given(COST, st.floats(0.1, 10.0))
def test_scaling_changes_no_proportion(cost: StepCost, factor: float) -> None:
    seconds = factor * cost.seconds(100, 8, 900)
    after = scaled(cost, Totals(1, seconds, 100, 8, 900))
    assert after.seconds(100, 8, 900) == pytest.approx(seconds)
    ratios = [a / b for a, b in zip(parts(after), parts(cost), strict=True)]
    assert ratios == pytest.approx([factor] * 4)
