"""Workers that are much slower than the others of their pool."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.routing.outliers import (
    CONFIRMED,
    ENOUGH,
    FIRST_PAUSE,
    SUSPICION,
    Pace,
    outliers,
)
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.router import Router


def seen(mean: float, streams: int = ENOUGH) -> Pace:
    pace = Pace()
    for _ in range(streams):
        pace = pace.ended(mean)
    return pace


def test_the_one_that_crawls_is_put_aside() -> None:
    pool = {"a": seen(0.02), "b": seen(0.03), "c": seen(0.5)}
    assert outliers(pool, 0) == ["c"]


def test_of_two_workers_the_slow_one_is_put_aside() -> None:
    assert outliers({"a": seen(0.02), "b": seen(0.5)}, 0) == ["b"]
    assert outliers({"b": seen(0.5)}, 0) == []


def test_what_nobody_would_notice_is_no_reason() -> None:
    assert outliers({"a": seen(0.001), "b": seen(0.002), "c": seen(0.015)}, 0) == []


def test_one_slow_stream_is_no_reason() -> None:
    assert outliers({"a": seen(0.02), "b": seen(0.02), "c": seen(0.5, ENOUGH - 1)}, 0) == []


def test_streams_that_crawl_count_before_their_end() -> None:
    slow = Pace().with_streams([0.5] * ENOUGH)
    assert outliers({"a": seen(0.02), "b": seen(0.03), "c": slow}, 0) == ["c"]


def test_streams_left_at_a_worker_that_is_aside_do_not_count_against_it_again() -> None:
    aside = seen(0.5).put_aside(0)
    pool = {"a": seen(0.02), "b": seen(0.03), "c": aside.with_streams([0.5] * ENOUGH)}
    assert outliers(pool, FIRST_PAUSE / 2) == []
    assert outliers(pool, FIRST_PAUSE) == ["c"]


def test_who_is_aside_does_not_make_the_others_look_fast() -> None:
    aside = seen(5.0).put_aside(0).with_streams([5.0] * ENOUGH)
    used = {"a": seen(0.02), "b": seen(0.02), "c": seen(0.5), "unknown": Pace(), "new": Pace()}
    assert outliers({**used, "x": aside, "y": aside}, 1) == ["c"]


@given(st.lists(st.floats(0, 10), max_size=9), st.integers(0, 3))
def test_never_more_than_half_of_a_pool_is_aside(means: list[float], aside: int) -> None:
    pool = {f"w{n}": seen(mean) for n, mean in enumerate(means)}
    for worker in list(pool)[: min(aside, len(pool) // 2)]:
        pool[worker] = pool[worker].put_aside(0)
    found = outliers(pool, 1)
    already = sum(pace.aside_until > 1 for pace in pool.values())
    assert len(found) + already <= len(pool) // 2
    assert not {worker for worker in found if pool[worker].aside_until > 1}


def test_who_relapses_is_put_aside_for_longer() -> None:
    first = seen(0.5).put_aside(0)
    assert first.aside_until == FIRST_PAUSE
    assert first.streams == 0
    for _ in range(ENOUGH):
        first = first.ended(0.5)
    assert first.put_aside(100).aside_until == 100 + 2 * FIRST_PAUSE
    for _ in range(100):
        first = first.ended(0.02)
    assert first.put_aside(100).aside_until == 100 + FIRST_PAUSE


def test_a_second_of_slowness_is_no_reason_and_five_are() -> None:
    suspected = seen(0.5).found_slow(0)
    assert suspected.aside_until == 0
    assert suspected.streams == 0, "the next finding rests on other streams"
    assert suspected.found_slow(CONFIRMED / 2) == suspected
    assert suspected.found_slow(CONFIRMED).aside_until == CONFIRMED + FIRST_PAUSE


def test_who_recovers_is_suspected_no_longer() -> None:
    suspected = seen(0.5).found_slow(0)
    assert suspected.found_well().found_slow(CONFIRMED).aside_until == 0


def test_an_old_suspicion_is_void() -> None:
    again = seen(0.5).found_slow(0).found_slow(SUSPICION + 1)
    assert again.aside_until == 0
    assert again.suspected == SUSPICION + 1


def test_a_router_puts_who_stays_slow_aside_once_and_who_was_slow_for_a_moment_never() -> None:
    router = Router(PrefixIndex())
    usual = [0.02] * ENOUGH
    pool = {"slow": [0.5] * ENOUGH, "moment": [0.5] * ENOUGH, "a": usual, "b": usual, "c": usual}
    assert router.put_slow_aside(pool, 0) == []
    recovered = {**pool, "moment": usual}
    assert router.put_slow_aside(recovered, 1) == []
    assert router.put_slow_aside(recovered, CONFIRMED) == ["slow"]
    assert router.put_slow_aside(pool, CONFIRMED + 1) == [], (
        "one is aside, the other suspected anew"
    )
