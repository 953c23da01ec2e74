"""Where a prompt is computed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api.inference import DisaggregationMode
from penstock_contract.fleet import FleetDisaggregation
from penstock_contract.metrics import Prefill
from penstock_gateway.routing.disaggregate import decide_prefill
from penstock_gateway.routing.policy import Candidate, Choice, weigh
from penstock_gateway.routing.speed import Speed

SPEED = Speed(start=0.02, token=1e-4, sequence=1e-4)
AUTO = FleetDisaggregation()


def worker(prompt: int, *, outstanding: int = 0, resident: int = 0, matched: int = 0) -> Choice:
    candidate = Candidate("w", SPEED, resident, outstanding, matched)
    return Choice(candidate, *weigh(candidate, prompt))


def decided(decode: Choice, prefill: Choice, rule: FleetDisaggregation = AUTO) -> Prefill:
    return decide_prefill(rule, decode, prefill).outcome


def test_a_long_prompt_leaves_a_worker_alone_that_streams() -> None:
    assert decided(worker(4000, resident=4), worker(4000)) is Prefill.HANDED_OVER


def test_an_idle_worker_computes_its_prompt_itself() -> None:
    assert decided(worker(4000), worker(4000)) is Prefill.SOONER


def test_a_queue_at_the_prefill_worker_is_waited_for_only_while_it_is_worth_it() -> None:
    busy = worker(4000, resident=4)
    assert decided(busy, worker(4000, outstanding=2000)) is Prefill.HANDED_OVER
    assert decided(busy, worker(4000, outstanding=20_000)) is Prefill.SOONER


@given(st.integers(0, 511), st.integers(0, 100_000))
def test_short_prompts_and_cached_ones_stay(uncached: int, matched: int) -> None:
    decode = worker(uncached + matched, matched=matched, resident=9, outstanding=99_999)
    assert decided(decode, worker(uncached + matched)) is Prefill.SHORT


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(DisaggregationMode.ALWAYS, Prefill.HANDED_OVER), (DisaggregationMode.NEVER, Prefill.OFF)],
)
@given(tokens=st.integers(1, 100_000), outstanding=st.integers(0, 100_000))
def test_what_is_told_is_done(
    mode: DisaggregationMode, expected: Prefill, tokens: int, outstanding: int
) -> None:
    rule = FleetDisaggregation(mode=mode)
    found = decided(worker(tokens), worker(tokens, outstanding=outstanding), rule)
    assert found is expected
