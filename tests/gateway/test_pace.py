"""How many sequences fit into the pace that is asked for."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.pace import sequences_within
from penstock_gateway.routing.policy import Candidate
from penstock_gateway.routing.worker_load import Load

COST = StepCost(step=0.01, prefill_token=1e-6, sequence=0.004, kv_token=1e-5)


def load(cost: StepCost | None = COST, sequences: int = 0, kv: int = 0) -> Load:
    found = Load(Candidate("a"), cost=cost, kv_used=kv)
    found.kv = dict.fromkeys(range(sequences), 0)
    return found


def test_longer_contexts_leave_room_for_fewer() -> None:
    assert sequences_within([load(sequences=2, kv=200)], 0.061) == 10
    assert sequences_within([load(sequences=2, kv=1200)], 0.061) == 5


def test_workers_have_their_places_together_and_each_has_one() -> None:
    short = load(sequences=1, kv=100)
    assert sequences_within([short, short], 0.061) == 20
    assert sequences_within([short, short], 0.001) == 2
    assert sequences_within([], 0.061) == 0


def test_one_that_has_not_told_what_its_steps_cost_is_not_bounded() -> None:
    assert sequences_within([load(), load(cost=None)], 0.061) == sys.maxsize


positive = st.floats(1e-6, 1.0)


@given(positive, positive, st.floats(0, 1e-3), positive, st.floats(0, 1e5))
def test_a_step_with_as_many_takes_no_longer_and_one_more_would(
    step: float, sequence: float, kv_token: float, seconds: float, context: float
) -> None:
    cost = StepCost(step, 0.0, sequence, kv_token)
    count = int(cost.sequences_within(seconds, context))
    if count:
        assert cost.seconds(0, count, count * context) <= seconds * (1 + 1e-9)
    if step < seconds:
        assert cost.seconds(0, count + 1, (count + 1) * context) >= seconds * (1 - 1e-9)
