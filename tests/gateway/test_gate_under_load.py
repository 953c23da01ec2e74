"""The gate with a real router: whatever happens, no worker is idle while requests wait for it."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_contract.api import Role
from penstock_contract.first_token import FEWEST_PROMPTS, backlog
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue, FleetWorker
from penstock_gateway.relay.gate import Gates
from penstock_gateway.relay.hold import Asked
from penstock_gateway.routing.destination import Destination
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.room import room_in
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import Speed
from penstock_gateway.routing.ticket import Prompt, Ticket

CLASS = FleetClass(name="standard")
QUEUE = FleetQueue(per_worker=6, max_requests=500, timeout=60.0, classes=(CLASS,), default=CLASS)
WORKERS = [
    FleetWorker(id=name, url=f"http://{name}", deployment="d", pool="p", role=Role.UNIFIED)
    for name in ("one", "two", "three")
]
MODEL = FleetModel(name="m", deployment="d", queue=QUEUE, ttft=1.0)
UNHURRIED = MODEL.model_copy(update={"ttft": None})
SLOW = Speed(0.0, 1e-3, 0.0)
"""A second for a thousand tokens: an eighth of it is given ahead."""


class Pool:
    """Workers that do what the test says, behind a gate and a router as in a gateway."""

    def __init__(self) -> None:
        self.router = Router(PrefixIndex())
        self.workers = list(WORKERS)
        self.model = MODEL
        for worker in WORKERS:
            self.router.profile(worker.id, SLOW, None)
        self.computing: dict[asyncio.Task[None], Ticket] = {}
        """Requests whose prompt a worker has."""
        self.answering: list[asyncio.Task[None]] = []
        self.ends: dict[asyncio.Task[None], asyncio.Event] = {}
        self.gates = Gates(self._capacity, wants_prompt=self._wants_prompt)

    def ask(self, size: int) -> None:
        """A request comes."""
        task = asyncio.create_task(self._request(size))
        self.ends[task] = asyncio.Event()

    def begins(self, task: asyncio.Task[None]) -> None:
        """Its first token comes."""
        self.router.answered(self.computing.pop(task), self._now())
        self.answering.append(task)

    def change(self, workers: list[FleetWorker], model: FleetModel) -> None:
        """The fleet is another one."""
        self.workers, self.model = workers, model
        self.router.keep_only(worker.id for worker in workers)
        for worker in workers:
            self.router.profile(worker.id, SLOW, None)
        self.gates.advance(model)

    async def settled(self) -> None:
        """Return when nobody waits whom a worker could take."""
        async with asyncio.timeout(60):
            while self.gates.waiting("d") and self._is_idle():
                await asyncio.sleep(0.002)

    async def done(self) -> None:
        """Let everything come to its end."""
        self.change(list(WORKERS), self.model)
        while self.ends:
            await self.settled()
            for task in list(self.computing):
                self.begins(task)
            for task in list(self.answering):
                await self.end(task)
            await asyncio.sleep(0)

    async def end(self, task: asyncio.Task[None]) -> None:
        """Its answer is whole."""
        self.answering.remove(task)
        self.ends[task].set()
        await task

    async def leave(self, task: asyncio.Task[None]) -> None:
        """Its client has gone."""
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.ends.pop(task, None)  # one that has not even begun

    def _is_idle(self) -> bool:
        """Return whether a worker has fewer prompts than it is always given, and can run more."""
        running, _ = self.gates.levels()["d"]
        held = [ticket.worker for ticket in self.computing.values()]
        fewest = min((held.count(worker.id) for worker in self.workers), default=FEWEST_PROMPTS)
        return fewest < FEWEST_PROMPTS and running < self._capacity(self.model)

    async def _request(self, size: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        permit = self.gates.offer(self.model, CLASS, Asked(size))
        ticket: Ticket | None = None
        try:
            await permit.granted()
            prompt = Prompt(size=size)
            found = self.router.rank(self.workers, prompt, tie=random.random(), now=self._now())
            if not found:
                return
            ticket = self.computing[task] = self.router.take(found[0], prompt, self._now())
            await self.ends[task].wait()
        finally:
            if ticket is not None:
                self.router.ended(ticket)
            permit.release()
            self.computing.pop(task, None)
            if task in self.answering:
                self.answering.remove(task)
            self.ends.pop(task, None)

    def _capacity(self, model: FleetModel) -> int:
        return len(self.workers) * QUEUE.per_worker

    def _wants_prompt(self, model: FleetModel, _: Destination) -> bool:
        assert model.ttft is not None
        loads = self.router.working(self.workers, self._now())
        return room_in(loads, backlog(model.ttft)) <= 0.0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def play(seed: int, events: list[str]) -> None:
    pool, chance = Pool(), random.Random(seed)
    for event in events:
        match event:
            case "ask":
                for _ in range(chance.randint(1, 12)):
                    pool.ask(chance.choice([40, 400, 4000]))
            case "begin" if pool.computing:
                pool.begins(chance.choice(list(pool.computing)))
            case "end" if pool.answering:
                await pool.end(chance.choice(pool.answering))
            case "leave" if pool.ends:
                await pool.leave(chance.choice(list(pool.ends)))
            case "fleet":
                workers = chance.sample(WORKERS, chance.randint(0, len(WORKERS)))
                pool.change(workers, chance.choice([MODEL, UNHURRIED]))
        if chance.random() < 0.8:  # else the next one comes before anybody has noticed
            await pool.settled()
    await pool.done()
    assert pool.gates.levels() in ({}, {"d": (0, 0)})
    assert all(pool.router.tally(worker.id).in_flight == 0 for worker in WORKERS)


@given(
    st.integers(0, 2**32),
    st.lists(
        st.sampled_from(["ask", "begin", "begin", "end", "end", "leave", "fleet"]), max_size=40
    ),
)
@settings(max_examples=60, deadline=None)
def test_no_worker_is_idle_while_requests_wait(seed: int, events: list[str]) -> None:
    asyncio.run(play(seed, ["ask", *events]))
