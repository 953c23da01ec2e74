"""When a worker's silence is noticed; test_silence.py has how long it may last."""

import asyncio

import pytest

from penstock_contract.metrics import Fault
from penstock_gateway.relay.response import UpstreamError
from penstock_gateway.relay.upstream import Connection
from penstock_gateway.relay.watchdog import Watchdog
from penstock_gateway.routing.silence import LONGEST_PREFILL

pytestmark = pytest.mark.anyio


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A watchdog, and connections to one worker whose health nobody hears of."""

    def __init__(self, *, well: bool = False) -> None:
        self.clock = Clock()
        self.questions = 0
        self.well = well
        self.watchdog = Watchdog(self.clock, self._is_well, lambda *_: None)

    async def _is_well(self, worker: str, within: float) -> bool:
        self.questions += 1
        if not self.well:
            self.clock.now += within
            self.ask()
        return self.well

    def ask(self, pieces: int = 0) -> Connection:
        """Send a request; a stream has said something just now if it has pieces."""
        connection = Connection()
        connection.heard, connection.pieces = self.clock.now, pieces
        self.watchdog.begin("w", connection)
        return connection

    async def pass_time(self, seconds: float, *, asked_every: float) -> None:
        """Let time go by while clients go on asking."""
        for _ in range(round(seconds / asked_every)):
            self.clock.now += asked_every
            self.ask()
            self.watchdog._look("w")
            for _ in range(5):
                await asyncio.sleep(0)


async def failure_of(connection: Connection) -> Fault:
    with pytest.raises(UpstreamError) as found:
        await connection.piece()
    return found.value.fault


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_requests_that_go_to_a_silent_worker_do_not_count_as_its_words() -> None:
    scene = Scene()
    stream = scene.ask(pieces=20)
    await scene.pass_time(3, asked_every=0.1)
    assert await failure_of(stream) is Fault.HUNG


async def test_nor_do_they_where_no_stream_has_begun() -> None:
    scene = Scene()
    first = scene.ask()
    await scene.pass_time(3, asked_every=0.1)
    assert await failure_of(first) is Fault.HUNG


async def test_a_worker_that_has_just_answered_another_request_is_not_silent() -> None:
    scene = Scene()
    waiting = scene.ask()
    for _ in range(20):
        answered = scene.ask(pieces=1)
        scene.watchdog.end("w", answered)
        await scene.pass_time(0.2, asked_every=0.1)
    assert scene.questions == 0
    assert not waiting.closed


async def test_a_worker_that_is_well_may_compute_prompts_while_others_come() -> None:
    scene = Scene(well=True)
    first = scene.ask()
    await scene.pass_time(LONGEST_PREFILL / 3, asked_every=1)
    assert scene.questions > 1
    assert not first.closed
