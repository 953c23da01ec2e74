"""What the gateway believes of a worker's speed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.speed import Speed, SpeedLearner


def feed(learner: SpeedLearner, true: Speed, count: int, seed: int = 0, noise: float = 0.1) -> None:
    random_ = random.Random(seed)
    for _ in range(count):
        tokens = random_.uniform(10, 20_000)
        seconds = true.start + true.token * tokens
        learner.observe(tokens, seconds * random_.uniform(1 - noise, 1 + noise))


@given(st.floats(1e-6, 1e-2), st.floats(0, 1), st.integers(0, 100))
def test_it_finds_the_true_speed_far_from_the_prior(token: float, start: float, seed: int) -> None:
    learner, true = SpeedLearner(Speed(token=token * 20)), Speed(start, token)
    feed(learner, true, 300, seed)
    assert abs(learner.speed.token * 10_000 + learner.speed.start - (token * 10_000 + start)) < (
        0.25 * (token * 10_000 + start)
    )


def test_a_pause_now_and_then_changes_little() -> None:
    learner, true = SpeedLearner(), Speed(0.01, 1e-4)
    feed(learner, true, 100)
    for _ in range(20):
        feed(learner, true, 9)
        learner.observe(1000, 60.0)
    assert learner.speed.token < 2e-4
    assert learner.speed.start < 1.0


def test_a_worker_that_became_slow_is_believed_after_a_while() -> None:
    learner = SpeedLearner()
    feed(learner, Speed(0.01, 1e-4), 200)
    feed(learner, Speed(0.01, 1e-3), 200)
    assert 0.7e-3 < learner.speed.token < 1.3e-3


def test_what_a_worker_says_of_itself_counts_until_something_is_seen() -> None:
    learner = SpeedLearner()
    learner.believe(Speed.of(StepCost(0.5, 1e-3, 2e-3, 0.0)))
    assert learner.speed == Speed(0.5, 1e-3, 2e-3)


def test_a_term_that_a_worker_could_not_measure_is_the_usual_one() -> None:
    assert Speed.of(StepCost(0.5, 0.0, 0.0, 0.0)) == Speed(0.5, Speed().token, Speed().sequence)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), max_size=60))
def test_no_observation_makes_a_worker_faster_than_light(seen: list[tuple[float, float]]) -> None:
    learner = SpeedLearner()
    for tokens, seconds in seen:
        learner.observe(tokens, seconds)
    assert learner.speed.token > 0
    assert learner.speed.start >= 0
