"""Prompts beside requests that decode: both advance, and steps take what the strictest one asks."""

import random
from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_contract.step_cost import StepCost
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, Sampling, Stats
from penstock_worker.prefill_budget import REFIT_EVERY, UNBOUNDED, PrefillBudget
from penstock_worker.request import Request
from penstock_worker.runner_interface import SampledToken, SliceOutput
from penstock_worker.step import Slice

COST = StepCost(step=0.01, prefill_token=1e-4, sequence=1e-3, kv_token=0.0)
BUDGET = 1024


class Clock:
    """A clock that only computing moves, and the runner that moves it."""

    def __init__(self, cost: StepCost, scatter: float) -> None:
        self.now = 0.0
        self._cost = cost
        self._scatter = scatter
        self._draw = random.Random(1)

    def __call__(self) -> float:
        return self.now

    def run(
        self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
    ) -> list[SliceOutput]:
        decoding = sum(1 for part in slices if part.start >= part.request.prompt_length)
        prefill = sum(part.count for part in slices) - decoding
        seconds = self._cost.seconds(prefill, decoding, sum(part.start for part in slices))
        self.now += seconds * self._draw.lognormvariate(0.0, self._scatter)
        return [SliceOutput([SampledToken(1)] if part.samples else []) for part in slices]


def engine(cost: StepCost | None = COST, truth: StepCost = COST, scatter: float = 0.0) -> Engine:
    clock = Clock(truth, scatter)
    return Engine(
        clock,
        BlockPool(4096, 16),
        vocab_size=100,
        max_model_len=32_000,
        max_num_seqs=64,
        max_num_batched_tokens=BUDGET,
        cost=cost,
        clock=clock,
    )


def ask(
    engine: Engine, name: str, prompt: int, output: int, tpot: float | None = None, first: int = 1
) -> None:
    tokens = [first % 100, first // 100, *[2] * prompt][:prompt]
    sampling = Sampling(temperature=0.0)
    assert engine.add(AddRequest(name, tokens, output, sampling=sampling, tpot=tpot)) is None


def beside_a_long_prompt(*paces: float | None, cost: StepCost | None = COST) -> list[Stats]:
    """Return the steps in which requests of some paces decode beside a prompt of 8,000 tokens."""
    busy = engine(cost)
    for number, pace in enumerate(paces):
        ask(busy, f"decodes-{number}", 16, 4000, pace, first=number)
    busy.step()
    ask(busy, "long", 8000, 1, first=99)
    steps = []
    while not (found := busy.step()).outputs or found.outputs[-1].id != "long":
        steps.append(found.stats)
    return steps


def test_a_step_takes_no_longer_than_the_objective_while_somebody_decodes() -> None:
    steps = beside_a_long_prompt(0.05)
    assert max(step.step_seconds for step in steps) <= 0.05 + 1e-9
    assert min(step.step_seconds for step in steps) > 0.049  # and prompts get all the rest
    assert steps[-1].bounded_steps == len(steps)


def test_the_strictest_objective_among_those_that_decode_is_kept() -> None:
    assert max(s.step_seconds for s in beside_a_long_prompt(0.05, None, 0.03)) <= 0.03 + 1e-9


@pytest.mark.parametrize("cost", [COST, None], ids=["measured", "not measured"])
def test_without_an_objective_or_a_cost_chunks_are_as_long_as_the_budget(
    cost: StepCost | None,
) -> None:
    steps = beside_a_long_prompt(0.05 if cost is None else None, cost=cost)
    assert {step.prefill_tokens + step.decode_tokens for step in steps} == {BUDGET}
    assert steps[-1].bounded_steps == 0


def test_a_prompt_alone_has_the_whole_budget_whatever_its_own_pace() -> None:
    alone = engine()
    ask(alone, "long", 3 * BUDGET, 2, tpot=0.02)
    assert [alone.step().stats.prefill_tokens for _ in range(3)] == [BUDGET] * 3


def test_a_prompt_advances_beside_an_objective_that_can_hardly_be_kept() -> None:
    steps = beside_a_long_prompt(0.0112)  # decoding takes 11 ms
    assert {step.prefill_tokens for step in steps} <= {10, 11, 12}  # a tenth of the time


def test_prompts_get_half_of_the_time_beside_an_objective_that_is_lost() -> None:
    steps = beside_a_long_prompt(0.005)
    assert {step.prefill_tokens for step in steps} <= {109, 110, 111}


def test_prompts_come_one_after_the_other() -> None:
    busy = engine()
    ask(busy, "decodes", 16, 4000, 0.05)
    busy.step()
    ask(busy, "first", 1000, 1, first=2)
    ask(busy, "second", 1000, 1, first=3)
    ends = [o.id for _ in range(8) for o in busy.step().outputs if o.finish_reason]
    assert ends == ["first", "second"]


@pytest.mark.parametrize("scatter", [0.0, 0.4], ids=["an idle machine", "a busy one"])
def test_what_steps_really_cost_is_learned_from_those_that_are_bounded(scatter: float) -> None:
    slow = StepCost(step=0.012, prefill_token=3e-4, sequence=1e-3, kv_token=0.0)
    busy = engine(COST, slow, scatter)
    ask(busy, "decodes", 16, 30_000, 0.05)
    busy.step()
    took = []
    for number in range(10 * REFIT_EVERY):
        ask(busy, f"prompt-{number}", 2000, 1, first=number)
        took.append(busy.step().stats.step_seconds)
        if number % 20 == 19:
            busy.abort([f"prompt-{old}" for old in range(number + 1)])
    assert sum(took[:REFIT_EVERY]) / REFIT_EVERY > 0.1
    learned = took[4 * REFIT_EVERY :]
    assert sum(learned) / len(learned) == pytest.approx(0.05, rel=0.05)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.integers(1, 30), st.none() | st.floats(1e-4, 1.0)),
        min_size=1,
        max_size=8,
    )
)
def test_every_request_ends_whatever_paces_are_asked_for(
    asked: list[tuple[int, int, float | None]],
) -> None:
    busy = engine()
    for number, (prompt, output, pace) in enumerate(asked):
        ask(busy, str(number), prompt, output, pace, first=number)
    tokens = dict.fromkeys(map(str, range(len(asked))), 0)
    while busy.busy:
        batch = busy.step()
        assert batch.stats.prefill_tokens + batch.stats.decode_tokens > 0
        for found in batch.outputs:
            tokens[found.id] += len(found.tokens)
    assert list(tokens.values()) == [output for _, output, _ in asked]


def decoding(tpot: float, prompt: int = 10) -> Request:
    message = AddRequest("r", [1] * prompt, 100, tpot=tpot, output=[1])
    found = Request.from_message(message, arrival=0, now=0.0, max_model_len=1000)
    found.computed = prompt
    return found


@given(st.lists(st.floats(0.001, 1.0) | st.just(inf), max_size=8))
def test_the_room_for_prompts_is_that_of_the_strictest(paces: list[float]) -> None:
    room = PrefillBudget(COST).room(decoding(pace) for pace in paces)
    finite = [pace for pace in paces if pace < inf]
    if not finite:
        assert room == UNBOUNDED
    else:
        exact = COST.prefill_within(min(finite), len(paces), 10 * len(paces))
        assert room == max(1, int(exact))
