"""Who is let through when workers are fed no further ahead than they need."""

import asyncio
import time
from collections.abc import Callable

import pytest

from penstock_contract.errors import ApiError
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue
from penstock_gateway.relay.gate import MAX_BYTES, Gates
from penstock_gateway.relay.hold import Asked

pytestmark = pytest.mark.anyio

CLASS = FleetClass(name="standard")
QUEUE = FleetQueue(per_worker=100, max_requests=100, timeout=30.0, classes=(CLASS,), default=CLASS)
MODEL = FleetModel(name="m", deployment="d", queue=QUEUE, ttft=2.0)


class Workers:
    """Takes two prompts ahead, and says what it was given."""

    def __init__(self) -> None:
        self.held = 0
        self.order: list[int] = []
        self.gates = Gates(lambda _: 100, wants_prompt=lambda _, __: self.held < 2)

    async def ask(self, number: int, model: FleetModel = MODEL) -> None:
        permit = self.gates.offer(model, CLASS, Asked(10))
        try:
            await permit.granted()
            self.held += 1
            self.order.append(number)
        except BaseException:
            permit.release()
            raise

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.005)


async def test_those_that_wait_together_do_not_go_together() -> None:
    workers = Workers()
    async with asyncio.TaskGroup() as asking:
        for number in range(8):
            asking.create_task(workers.ask(number))
        for given in range(2, 9):
            await workers.until(lambda given=given: len(workers.order) == given)  # type: ignore[misc]
            assert workers.held == 2
            await asyncio.sleep(0.03)  # nobody tells the gate of anything meanwhile
            assert len(workers.order) == given
            workers.held -= 1
    assert workers.order == list(range(8))


async def test_a_model_without_an_objective_gives_all_that_can_run() -> None:
    workers = Workers()
    model = MODEL.model_copy(update={"ttft": None})
    async with asyncio.TaskGroup() as asking:
        for number in range(8):
            asking.create_task(workers.ask(number, model))
    assert workers.held == 8


async def test_who_leaves_in_the_moment_of_its_turn_blocks_nobody() -> None:
    workers = Workers()
    tasks = [asyncio.create_task(workers.ask(number)) for number in range(4)]
    await workers.until(lambda: len(workers.order) == 2)
    assert workers.gates.waiting("d") == 2
    workers.held -= 1
    workers.gates.advance(MODEL)  # the turn of 2 has come
    tasks[2].cancel()
    await workers.until(lambda: workers.order[2:] == [3])
    await asyncio.gather(*tasks, return_exceptions=True)
    assert workers.order == [0, 1, 3]


async def test_who_has_its_turn_in_the_moment_in_which_its_time_is_over_goes() -> None:
    workers = Workers()
    queue = QUEUE.model_copy(update={"timeout": 0.05})
    model = MODEL.model_copy(update={"queue": queue})
    tasks = [asyncio.create_task(workers.ask(number, model)) for number in range(3)]
    await asyncio.sleep(0)
    assert workers.gates.waiting("d") == 1
    time.sleep(0.1)  # the loop is busy: the time is over, and nobody knows yet
    workers.held -= 1
    workers.gates.advance(model)
    await asyncio.gather(*tasks)
    assert workers.order == [0, 1, 2]


async def test_where_nobody_may_wait_nobody_does() -> None:
    workers = Workers()
    model = MODEL.model_copy(update={"queue": QUEUE.model_copy(update={"max_requests": 0})})
    async with asyncio.TaskGroup() as asking:
        for number in range(8):
            asking.create_task(workers.ask(number, model))
    assert workers.held == 8


async def test_what_is_held_is_bounded_and_not_what_is_to_be_computed() -> None:
    """A ranking computes its question with each document: gigabytes, of a body of a megabyte."""
    gates = Gates(lambda _: 0)
    ranking = Asked(cost=100 * MAX_BYTES, held=1 << 20)
    permits = [gates.offer(MODEL, CLASS, ranking) for _ in range(3)]
    permits.append(gates.offer(MODEL, CLASS, Asked(cost=1, held=MAX_BYTES - (3 << 20))))
    with pytest.raises(ApiError):
        gates.offer(MODEL, CLASS, Asked(cost=0, held=1))
    assert gates.waiting("d") == 4
    for permit in permits:
        permit.release()
