"""What a worker measures of itself at start, with a runner whose cost is known."""

from collections.abc import Sequence

import pytest

from penstock_contract.step_cost import StepCost
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.runner_interface import SampledToken, SliceOutput
from penstock_worker.self_benchmark import measure
from penstock_worker.step import Slice

TRUTH = StepCost(step=0.002, prefill_token=2e-5, sequence=3e-4, kv_token=5e-8)


class Clock:
    """A clock that only computing moves."""

    def __init__(self, cost: StepCost) -> None:
        self.now = 0.0
        self.steps = 0
        self._cost = cost

    def __call__(self) -> float:
        return self.now

    def run(
        self,
        slices: Sequence[Slice],
        copies: Sequence[tuple[int, int]] = (),
    ) -> list[SliceOutput]:
        decoding = sum(1 for part in slices if part.start >= part.request.prompt_length)
        prefill = sum(part.count for part in slices) - decoding
        self.now += self._cost.seconds(prefill, decoding, sum(part.start for part in slices))
        self.steps += 1
        return [SliceOutput([SampledToken(1)] if part.samples else []) for part in slices]


def engine(clock: Clock, num_blocks: int = 256, context: int = 4096) -> Engine:
    return Engine(
        clock,
        BlockPool(num_blocks, 16),
        vocab_size=100,
        max_model_len=context,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        clock=clock,
    )


def found(cost: StepCost, budget: float, **options: int) -> tuple[StepCost, Clock]:
    clock = Clock(cost)
    return measure(engine(clock, **options), vocab_size=100, clock=clock, budget=budget), clock


def test_it_finds_what_steps_cost() -> None:
    cost, clock = found(TRUTH, budget=0.4)
    assert clock.now < 0.4
    assert cost.step == pytest.approx(TRUTH.step, rel=0.02)
    assert cost.prefill_token == pytest.approx(TRUTH.prefill_token, rel=0.02)
    assert cost.sequence == pytest.approx(TRUTH.sequence, rel=0.05)


def test_a_slow_machine_measures_less_and_never_a_step_past_the_budget() -> None:
    slow = StepCost(step=0.3, prefill_token=0.01, sequence=0.01, kv_token=0.0)
    cost, clock = found(slow, budget=0.4)
    assert clock.now < 0.4 + slow.seconds(16, 1, 20)
    assert cost.seconds(16, 0, 0) == pytest.approx(slow.seconds(16, 0, 0), rel=0.5)


def test_a_small_context_is_no_error() -> None:
    cost, clock = found(TRUTH, budget=0.4, num_blocks=4, context=64)
    assert clock.steps > 0
    assert cost.step > 0


def test_prompts_are_of_many_tokens_as_experts_are_chosen_by_token() -> None:
    class Varied(Clock):
        fewest = 1.0

        def run(
            self, slices: Sequence[Slice], copies: Sequence[tuple[int, int]] = ()
        ) -> list[SliceOutput]:
            for part in slices:
                prompt = part.request.tokens[: part.request.prompt_length]
                self.fewest = min(self.fewest, len(set(prompt)) / min(len(prompt), 100))
            return super().run(slices, copies)

    clock = Varied(TRUTH)
    measure(engine(clock), vocab_size=100, clock=clock, budget=0.4)
    assert clock.fewest > 0.9
