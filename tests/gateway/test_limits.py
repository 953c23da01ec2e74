"""Limits of tenants: token buckets, and what is told about them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api.tenant import Limits
from penstock_contract.errors import ErrorCode
from penstock_gateway.tenants.bucket import Bucket
from penstock_gateway.tenants.meter import LimitReached, Meter, duration
from penstock_gateway.tenants.tenant import ANYONE
from penstock_gateway.tenants.tenant_request import TenantRequest

amounts = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=40)


@given(st.integers(1, 1000), amounts)
def test_no_minute_ever_gives_more_than_two_of_its_limit(
    per_minute: int, wishes: list[tuple[float, int]]
) -> None:
    bucket, now = Bucket.full(per_minute, 0.0), 0.0
    taken: list[tuple[float, int]] = []
    for gap, wanted in wishes:
        now += gap
        amount = min(wanted, per_minute)
        if bucket.wait(amount, now) == 0:
            bucket = bucket.take(amount, now)
            taken.append((now, amount))
    for start, _ in taken:
        within = sum(amount for at, amount in taken if start <= at < start + 60)
        assert within <= 2 * per_minute + 1e-6


@given(st.integers(1, 1000), st.integers(1, 5000), st.floats(0, 1e6))
def test_after_the_wait_that_it_tells_the_amount_is_there(
    per_minute: int, amount: int, now: float
) -> None:
    amount = min(amount, per_minute)
    bucket = Bucket.full(per_minute, now).take(amount, now)
    later = now + bucket.wait(amount, now) + 1e-3
    assert bucket.wait(amount, later) == pytest.approx(0, abs=1e-6)


def test_what_was_used_before_it_was_known_is_waited_for() -> None:
    bucket = Bucket.full(60, 0.0).take(120, 0.0)
    assert bucket.left(0.0) == -60
    assert bucket.wait(1, 0.0) == 61
    assert bucket.reset(0.0) == 120


def test_a_new_size_does_not_give_back_what_was_taken() -> None:
    bucket = Bucket.full(60, 0.0).take(50, 0.0)
    assert bucket.resized(100, 0.0).left(0.0) == 50
    assert bucket.resized(10, 0.0).left(0.0) == -40


def meter(**limits: int) -> Meter:
    found = Meter()
    found.limit(Limits(**limits), 0.0)
    return found


def test_without_limits_everything_goes_and_nothing_is_told() -> None:
    free = meter()
    for _ in range(1000):
        free.begin(0.0)
        free.reserve(10**9, 0.0)
    assert free.left(0.0) == {}


def test_requests_over_the_limit_are_told_when_to_come_again() -> None:
    busy = meter(requests_per_minute=2)
    busy.begin(0.0)
    busy.begin(0.0)
    with pytest.raises(LimitReached) as refused:
        busy.begin(0.0)
    error = refused.value
    assert error.code is ErrorCode.RATE_LIMIT_EXCEEDED
    assert error.headers()["retry-after"] == "30"
    assert error.headers()["x-ratelimit-limit-requests"] == "2"
    assert error.headers()["x-ratelimit-remaining-requests"] == "0"
    assert error.headers()["x-ratelimit-reset-requests"] == "1m0s"
    busy.begin(30.0)


def test_a_refused_request_is_not_one_under_way() -> None:
    busy = meter(concurrency=1)
    busy.begin(0.0)
    for _ in range(3):
        with pytest.raises(LimitReached):
            busy.begin(0.0)
    busy.settle(0, 0, 0.0)
    busy.begin(0.0)


def test_reserved_tokens_come_back_when_they_were_not_used() -> None:
    careful = meter(tokens_per_minute=100)
    careful.begin(0.0)
    careful.reserve(90, 0.0)
    assert careful.left(0.0)["x-ratelimit-remaining-tokens"] == "10"
    with pytest.raises(LimitReached):
        careful.reserve(11, 0.0)
    careful.settle(90, 20, 0.0)
    assert careful.left(0.0)["x-ratelimit-remaining-tokens"] == "80"


def test_a_request_larger_than_the_limit_waits_for_a_full_minute_and_then_goes() -> None:
    small = meter(tokens_per_minute=100)
    small.begin(0.0)
    assert small.reserve(10**40, 0.0) == 100
    with pytest.raises(LimitReached) as refused:
        small.reserve(1, 0.0)
    assert refused.value.retry_after == pytest.approx(0.6)
    small.settle(100, 250, 0.0)
    assert small.left(0.0)["x-ratelimit-reset-tokens"] == "2m30s"


def test_changed_limits_hold_at_once() -> None:
    changing = meter(requests_per_minute=10)
    for _ in range(5):
        changing.begin(0.0)
    changing.limit(Limits(requests_per_minute=5), 0.0)
    with pytest.raises(LimitReached):
        changing.begin(0.0)
    changing.limit(Limits(), 0.0)
    changing.begin(0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.12, "120ms"), (1.0, "1s"), (6.2, "6s"), (90.0, "1m30s"), (3600.0, "60m0s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("spare", "code", "left"),
    [
        (True, ErrorCode.NO_CAPACITY, 2),
        (True, ErrorCode.MODEL_NOT_FOUND, 1),
        (False, ErrorCode.NO_CAPACITY, 1),
    ],
)
def test_a_batchs_request_that_comes_again_until_there_is_room_counts_once(
    spare: bool, code: ErrorCode, left: int
) -> None:
    found = meter(requests_per_minute=2)
    asked = TenantRequest(ANYONE, found, lambda: 0.0, spare=spare)
    asked.begin()
    asked.refused(code)
    asked.finish()
    assert found.left(0.0)["x-ratelimit-remaining-requests"] == str(left)
    assert found.begun == 2 - left, "what other processes take, too"


def test_what_is_refused_for_its_limit_is_not_given_back() -> None:
    found = meter(requests_per_minute=1)
    found.begin(0.0)
    asked = TenantRequest(ANYONE, found, lambda: 0.0, spare=True)
    with pytest.raises(LimitReached) as refused:
        asked.begin()
    asked.refused(refused.value.code)
    assert found.begun == 1
