"""Keys are worked on one at a time, once for many wishes, and again after failures."""

import asyncio
from collections import Counter

import pytest

from penstock_operator.cluster.workqueue import WorkQueue

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def run_until(queue: WorkQueue[str], done: asyncio.Event) -> None:
    task = asyncio.create_task(queue.run())
    async with asyncio.timeout(60):
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_key_is_never_worked_on_twice_at_once_and_no_wish_is_lost() -> None:
    running: Counter[str] = Counter()
    worked: Counter[str] = Counter()
    done = asyncio.Event()

    async def work(key: str) -> None:
        running[key] += 1
        assert running[key] == 1
        if worked[key] == 0:
            queue.add([key, key])  # twice while it runs: once more
        await asyncio.sleep(0.01)
        running[key] -= 1
        worked[key] += 1
        if worked == {"a": 2, "b": 2}:
            done.set()

    queue: WorkQueue[str] = WorkQueue(work, at_once=4)
    queue.add(["a", "b", "a", "a"])
    await run_until(queue, done)
    assert worked == {"a": 2, "b": 2}


async def test_at_most_so_many_run_at_once() -> None:
    running = most = ended = 0
    done = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        ended += 1
        if ended == 20:
            done.set()

    queue: WorkQueue[str] = WorkQueue(work, at_once=3)
    queue.add(str(i) for i in range(20))
    await run_until(queue, done)
    assert most == 3


async def test_what_failed_comes_back_until_it_works() -> None:
    tries = 0
    done = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("away")
        done.set()

    queue: WorkQueue[str] = WorkQueue(work, at_once=1)
    queue.add(["a"])
    await run_until(queue, done)
    assert tries == 3


async def test_the_earliest_of_several_times_counts() -> None:
    done = asyncio.Event()
    times = 0

    async def work(key: str) -> None:
        nonlocal times
        times += 1
        done.set()

    queue: WorkQueue[str] = WorkQueue(work, at_once=1)
    queue.add_later("a", 3600)
    queue.add_later("a", 0.01)
    await run_until(queue, done)
    assert times == 1
