"""The waiting queue: the most urgent comes first, whoever leaves is gone and not kept."""

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.messages import AddRequest
from penstock_worker.request import Request
from penstock_worker.waiting_queue import WaitingQueue


def request(arrival: int, priority: int = 0) -> Request:
    message = AddRequest(id=str(arrival), prompt=[1], max_tokens=1, priority=priority)
    return Request.from_message(message, arrival=arrival, now=0.0, max_model_len=9)


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "pop", "discard"]), st.integers(-2, 2)), max_size=80
    )
)
def test_it_is_a_sorted_list_whatever_happens(steps: list[tuple[str, int]]) -> None:
    queue = WaitingQueue()
    plain: list[Request] = []
    for arrival, (what, number) in enumerate(steps):
        if what == "push":
            plain.append(request(arrival, number))
            queue.push(plain[-1])
            plain.sort(key=lambda one: one.urgency)
        elif what == "pop" and plain:
            assert queue.first() is plain[0]
            assert queue.pop() is plain.pop(0)
        elif what == "discard" and plain:
            queue.discard(plain.pop(number % len(plain)))
        assert len(queue) == len(plain)
    assert [queue.pop() for _ in plain] == plain


def test_discarding_a_stranger_changes_nothing() -> None:
    queue = WaitingQueue()
    queue.push(request(1))
    queue.discard(request(2))
    assert len(queue) == 1


def test_most_of_those_who_left_are_forgotten_though_nobody_is_admitted() -> None:
    queue = WaitingQueue()
    asked = [request(arrival) for arrival in range(100)]
    kept = [weakref.ref(one) for one in asked]
    for one in asked:
        queue.push(one)
    while len(asked) > 10:
        queue.discard(asked.pop())
    del one
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= 2 * len(queue)
