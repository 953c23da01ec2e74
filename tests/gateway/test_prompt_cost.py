"""What the gateway believes that prompts cost a worker that does not say so."""

import random

import pytest
from batching import CHUNK, BatchingWorker
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.prompt_cost import FEWEST, SLOWEST, PromptCost

COST = StepCost(0.015, 1e-4, 1e-4, 1e-7)
BACKLOG = 0.25


def overloaded(
    learner: PromptCost, *, length: int, seconds: float, hold: bool, answer: int = 100
) -> BatchingWorker:
    """Return a worker to which prompts of about this length came without end."""
    worker, chance = BatchingWorker(COST, learner.observe, answer), random.Random(7)
    while worker.now < seconds:
        for _ in range(4):  # no more than vLLM has sequences for
            token = learner.token if hold else 0.0
            if worker.outstanding < 20 * CHUNK and worker.wants_prompt(BACKLOG, token):
                worker.give(int(length * chance.uniform(0.2, 1.8)))
        worker.step()
    return worker


def test_it_finds_what_a_prompt_token_costs_among_what_is_decoded() -> None:
    for length in (200, 1000, 4000):
        learner = PromptCost()
        overloaded(learner, length=length, seconds=60.0, hold=True)
        # What every step costs, and what decodes in it, is the price of a full step's tokens too.
        assert 0.6e-4 < learner.token < learner.best < 2.5e-4


@pytest.mark.parametrize("length", [20, 100, 1000, 8000])
def test_to_hold_prompts_back_by_it_leaves_no_worker_idle(length: int) -> None:
    computed = {
        hold: overloaded(PromptCost(), length=length, seconds=60.0, hold=hold).computed
        for hold in (False, True)
    }
    assert computed[True] > 0.93 * computed[False]


@pytest.mark.parametrize("seed", range(3))
def test_overload_by_prompts_that_are_all_alike_leads_to_no_absurdity(seed: int) -> None:
    learner, chance = PromptCost(), random.Random(seed)
    worker = BatchingWorker(COST, learner.observe, answer=50, seed=seed)
    due, waiting, worst = 0.0, 0, 0.0
    while worker.now < 60.0:
        while due <= worker.now:
            waiting, due = waiting + 1, due + chance.expovariate(200)
        while waiting and worker.wants_prompt(BACKLOG / 4, learner.token):
            worker.give(20)
            waiting -= 1
        worker.step()
        worst = max(worst, learner.error)
    assert worst < 1e-3


def test_decoding_does_not_make_prompts_look_dear() -> None:
    learner, chance = PromptCost(), random.Random(1)
    for _ in range(400):
        tokens, decoding = chance.uniform(50, 2000), chance.randint(0, 200)
        took = 0.02 + 1e-4 * tokens + 1e-3 * decoding
        learner.observe(tokens, decoding, took * chance.uniform(0.9, 1.1))
    assert learner.best == pytest.approx(1e-4, rel=0.2)
    assert learner.token < learner.best


def test_nothing_is_told_of_few_answers_or_of_prompts_that_are_alike() -> None:
    learner, chance = PromptCost(), random.Random(2)
    for _ in range(int(FEWEST) - 1):
        learner.observe(chance.uniform(10, 9000), 0, 0.3)
    assert learner.token == 0.0
    alike = PromptCost()
    for _ in range(500):
        alike.observe(700, 3, chance.uniform(0.09, 0.11))
    assert alike.token == 0.0


def test_nothing_is_told_where_first_tokens_do_not_depend_on_prompts() -> None:
    learner, chance = PromptCost(), random.Random(3)
    told = 0
    for _ in range(2000):
        learner.observe(chance.uniform(10, 9000), 0, chance.uniform(0.1, 5.0))
        told += learner.token * 5000 > 0.5
    assert told < 40


def test_pauses_now_and_then_change_little() -> None:
    learner, chance = PromptCost(), random.Random(4)
    for number in range(500):
        tokens = chance.uniform(10, 9000)
        pause = 30.0 if number > 100 and number % 20 == 0 else 0.0
        learner.observe(tokens, 0, (0.02 + 1e-4 * tokens) * chance.uniform(0.9, 1.1) + pause)
    assert learner.best == pytest.approx(1e-4, rel=0.3)


@pytest.mark.parametrize("pauses", [1, 3])
def test_a_worker_that_warms_up_has_shown_its_cost_soon_after(pauses: int) -> None:
    learner, chance = PromptCost(), random.Random(6)
    for _ in range(pauses):
        learner.observe(chance.uniform(10, 9000), 0, 60.0)
    for _ in range(60):
        tokens = chance.uniform(10, 9000)
        learner.observe(tokens, 0, (0.02 + 1e-4 * tokens) * chance.uniform(0.9, 1.1))
    assert 0.9e-4 < learner.token < learner.best < 1.1e-4


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_another_model_behind_the_same_address_is_learned_anew(factor: float) -> None:
    learner, chance = PromptCost(), random.Random(5)
    for number in range(1500):
        tokens, token = chance.uniform(10, 9000), 1e-4 * (factor if number >= 500 else 1.0)
        learner.observe(tokens, 0, (0.02 + token * tokens) * chance.uniform(0.9, 1.1))
    assert learner.best == pytest.approx(1e-4 * factor, rel=0.3)


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**4), st.floats(0, 1e5)), max_size=99
    )
)
def test_whatever_comes_it_stays_within_bounds(seen: list[tuple[int, int, float]]) -> None:
    learner = PromptCost()
    for tokens, decoding, seconds in seen:
        learner.observe(tokens, decoding, seconds)
        assert 0.0 <= learner.token <= learner.best <= SLOWEST or learner.token == 0.0
        assert learner.error >= 0.0
