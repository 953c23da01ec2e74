"""How many requests of a batch may be in flight."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.batches.window import LONGEST_PAUSE, Window

MOST = 64


def test_it_doubles_with_every_round_until_the_first_refusal() -> None:
    window = Window()
    for size in (2, 4, 8, 16):
        for _ in range(int(window.size)):
            window = window.answered(MOST)
        assert window.size == size


def test_a_refusal_halves_it_once_for_all_that_was_sent_before() -> None:
    window = Window(size=16)
    once = window.refused(sent_at=1.0, now=2.0, retry_after=0)
    assert once.size == 8
    assert once.refused(sent_at=1.5, now=2.1, retry_after=0) is once
    assert once.refused(sent_at=3.0, now=3.1, retry_after=0).size == 4


def test_after_a_refusal_a_round_of_answers_opens_it_by_one() -> None:
    window = Window(size=8.0, slow_start=False)
    for _ in range(8):
        window = window.answered(MOST)
    assert 8.9 < window.size < 9.0


def test_it_pauses_as_long_as_the_refusal_asks_but_not_for_ever() -> None:
    window = Window(size=4).refused(sent_at=0, now=10, retry_after=3)
    assert window.room(0, MOST, 12.9) == 0
    assert window.room(0, MOST, 13.0) == 2
    assert Window().refused(0, 0, 1e9).resumes_at == LONGEST_PAUSE


def test_pauses_grow_while_nothing_else_comes() -> None:
    window, now, pauses = Window(), 0.0, []
    for _ in range(12):
        window = window.refused(now, now, 0)
        pauses.append(window.resumes_at - now)
        now = window.resumes_at
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] == LONGEST_PAUSE
    assert window.answered(MOST).refused(now, now, 0).resumes_at - now < 1


@given(
    st.lists(st.one_of(st.just("answered"), st.floats(0, 100)), max_size=200), st.integers(1, 64)
)
def test_it_lets_through_one_at_least_and_no_more_than_may_be(
    events: list[str | float], most: int
) -> None:
    window, now = Window(), 0.0
    for event in events:
        now += 1
        if isinstance(event, str):
            window = window.answered(most)
        else:
            window = window.refused(now, now, event)
        assert 1 <= window.room(0, most, window.resumes_at + 1e-6) <= most
        assert window.room(most, most, now) == 0
