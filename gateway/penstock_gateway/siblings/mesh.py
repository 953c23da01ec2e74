"""Connects a process with each of its siblings: tells them of changes, and asks them questions."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from penstock_gateway.admission.processes import ProcessIndex
from penstock_gateway.relay.relay import Relay
from penstock_gateway.siblings.frames import Message, frame
from penstock_gateway.siblings.link import Receiver, Sender, free_socket, reach, socket_of
from penstock_gateway.siblings.updates import Queues, SharedState, Update

log = logging.getLogger("penstock.gateway.siblings")

BATCH_SECONDS: Final = 0.005
"""Between two updates, if there are as many."""
WHOLE_SECONDS: Final = 0.25
"""Between two accounts of all that there is, for what did not arrive."""
SILENT_SECONDS: Final = 1.5
"""After which nobody waits for a sibling that says nothing."""
ANSWER_SECONDS: Final = 1.0
"""For an answer, while somebody waits for it."""
KNOWN_SECONDS: Final = 0.02
"""Between two looks whether the tenants are known."""

Answers = Mapping[str, Callable[[], Any]]
"""What can be asked for, by name."""


class Mesh:
    """All processes of a gateway, seen from one of them.

    Args:
        process: which one it is.
        folder: in which the others listen.
        shared: what they have in common.
        relay: of this process.
        answers: to what siblings ask.
    """

    def __init__(
        self,
        process: ProcessIndex,
        folder: Path,
        shared: SharedState,
        relay: Relay,
        answers: Answers,
    ) -> None:
        self._process = process
        self._folder = folder
        self._shared = shared
        self._relay = relay
        self._answers = answers
        self._senders: dict[int, Sender] = {}
        self._reached = {sibling: asyncio.Event() for sibling in self.siblings}
        self._receivers: dict[int, Receiver] = {}
        self._heard_at: dict[int, float] = {}
        self._told_at = 0.0
        self._told_queues: Queues = {}

    @property
    def siblings(self) -> list[int]:
        """The numbers of the others, there or not."""
        return [n for n in range(self._process.total) if n != self._process.number]

    def wake(self) -> None:
        """There is something to tell, soon."""
        loop = asyncio.get_running_loop()
        loop.call_at(max(loop.time(), self._told_at + BATCH_SECONDS), self._tell)

    async def run(self) -> None:
        """Speak and listen until cancelled."""
        # What siblings say of tenants would be lost before.
        while not self._shared.tenancy.known:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(KNOWN_SECONDS)
        path = free_socket(self._folder, self._process.number)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Receiver(self._heard, self._gone), path)
        try:
            async with asyncio.TaskGroup() as group:
                for sibling in self.siblings:
                    group.create_task(self._speak_to(sibling))
                group.create_task(self._repeat())
        finally:
            server.close()

    async def ask(self, what: str) -> dict[int, Any]:
        """Return what the siblings answer, without those that do not."""

        async def one(sibling: int) -> tuple[int, Any] | None:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    # Where one has just begun, its last account is already too little.
                    await self._reached[sibling].wait()
                    sender = self._senders.get(sibling)
                    if sender is None:  # it has ended again
                        return None
                    return sibling, await sender.ask(what, ANSWER_SECONDS)
            except TimeoutError:
                return None

        found = await asyncio.gather(*map(one, self.siblings))
        return dict(answer for answer in found if answer is not None)

    @property
    def there(self) -> set[int]:
        """The siblings that have not ended."""
        return set(self._senders)

    async def _speak_to(self, sibling: int) -> None:
        while True:
            sender = await reach(socket_of(self._folder, sibling))
            opening = self._shared.opening(self._relay.gates)
            sender.say(frame({"hello": self._process.number, "opening": opening}))
            self._senders[sibling] = sender
            self._reached[sibling].set()
            await sender.lost
            self._reached[sibling].clear()
            del self._senders[sibling]

    async def _repeat(self) -> None:
        now = self._shared.clock
        while True:
            await asyncio.sleep(WHOLE_SECONDS)
            self._tell(whole=True)
            for sibling, at in self._heard_at.items():
                if now() - at > SILENT_SECONDS:
                    self._shared.still(sibling)

    def _tell(self, *, whole: bool = False) -> None:
        update = self._shared.next_update(self._relay.gates, whole=whole)
        if whole or self._has_changes(update):
            self._told_at = asyncio.get_running_loop().time()
            self._told_queues = update["queues"]
            message = frame({"update": update})
            for sender in self._senders.values():
                sender.say(message)

    def _has_changes(self, update: Update) -> bool:
        something = update["events"] or update["loads"] or update["tenants"]
        return bool(something) or update["queues"] != self._told_queues

    def _heard(self, sibling: int, message: Message, receiver: Receiver) -> Message | None:
        self._heard_at[sibling] = self._shared.clock()
        match message:
            case {"ask": number, "what": what}:
                return {"answer": number, "with": self._answers[what]()}
            case {"opening": opening}:
                self._receivers[sibling] = receiver
                self._shared.begin(sibling, opening)
            case {"update": update}:
                self._shared.hear(sibling, update)
                self._let_through()
        return None

    def _gone(self, sibling: int, receiver: Receiver) -> None:
        if self._receivers.get(sibling) is receiver:
            del self._receivers[sibling], self._heard_at[sibling]
            self._shared.gone(sibling)
            self._let_through()

    def _let_through(self) -> None:
        """There may be room that a sibling has left."""
        for model in self._relay.directory().fleet.models:
            self._relay.gates.advance(model)
