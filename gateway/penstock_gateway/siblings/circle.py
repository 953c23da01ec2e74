"""This process among its siblings: who is there, what they are told, and what they answer."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from penstock_gateway.admission.processes import Place
from penstock_gateway.relay.relay import Relay
from penstock_gateway.siblings.frames import Message, frame
from penstock_gateway.siblings.link import Ear, Mouth, free_socket, reach, socket_of
from penstock_gateway.siblings.news import News, Shared

log = logging.getLogger("penstock.gateway.siblings")

BATCH_SECONDS: Final = 0.005
"""Between two news, if there are as many."""
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


class Circle:
    """All processes of a gateway, seen from one of them.

    Args:
        place: of this process.
        folder: in which the others listen.
        shared: what they have in common.
        relay: of this process.
        answers: to what siblings ask.
    """

    def __init__(
        self, place: Place, folder: Path, shared: Shared, relay: Relay, answers: Answers
    ) -> None:
        self._place = place
        self._folder = folder
        self._shared = shared
        self._relay = relay
        self._answers = answers
        self._mouths: dict[int, Mouth] = {}
        self._reached = {sibling: asyncio.Event() for sibling in self.siblings}
        self._ears: dict[int, Ear] = {}
        self._heard_at: dict[int, float] = {}
        self._told_at = 0.0
        self._told_queues: dict[str, tuple[int, int]] = {}

    @property
    def siblings(self) -> list[int]:
        """The numbers of the others, there or not."""
        return [n for n in range(self._place.processes) if n != self._place.number]

    def wake(self) -> None:
        """There is something to tell, soon."""
        loop = asyncio.get_running_loop()
        loop.call_at(max(loop.time(), self._told_at + BATCH_SECONDS), self._tell)

    async def run(self) -> None:
        """Speak and listen until cancelled."""
        # What siblings say of tenants would be lost before.
        while not self._shared.tenancy.known:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(KNOWN_SECONDS)
        path = free_socket(self._folder, self._place.number)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Ear(self._heard, self._gone), path)
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
                    mouth = self._mouths.get(sibling)
                    if mouth is None:  # it has ended again
                        return None
                    return sibling, await mouth.ask(what, ANSWER_SECONDS)
            except TimeoutError:
                return None

        found = await asyncio.gather(*map(one, self.siblings))
        return dict(answer for answer in found if answer is not None)

    @property
    def there(self) -> set[int]:
        """The siblings that have not ended."""
        return set(self._mouths)

    async def _speak_to(self, sibling: int) -> None:
        while True:
            mouth = await reach(socket_of(self._folder, sibling))
            opening = self._shared.opening(self._relay.gates)
            mouth.say(frame({"hello": self._place.number, "opening": opening}))
            self._mouths[sibling] = mouth
            self._reached[sibling].set()
            await mouth.lost
            self._reached[sibling].clear()
            del self._mouths[sibling]

    async def _repeat(self) -> None:
        now = self._shared.clock
        while True:
            await asyncio.sleep(WHOLE_SECONDS)
            self._tell(whole=True)
            for sibling, at in self._heard_at.items():
                if now() - at > SILENT_SECONDS:
                    self._shared.rooms.still(sibling)

    def _tell(self, *, whole: bool = False) -> None:
        news = self._shared.news(self._relay.gates, whole=whole)
        if whole or self._is_news(news):
            self._told_at = asyncio.get_running_loop().time()
            self._told_queues = news["queues"]
            message = frame({"news": news})
            for mouth in self._mouths.values():
                mouth.say(message)

    def _is_news(self, news: News) -> bool:
        something = news["events"] or news["loads"] or news["tenants"]
        return bool(something) or news["queues"] != self._told_queues

    def _heard(self, sibling: int, message: Message, ear: Ear) -> Message | None:
        self._heard_at[sibling] = self._shared.clock()
        match message:
            case {"ask": number, "what": what}:
                return {"answer": number, "with": self._answers[what]()}
            case {"opening": news}:
                self._ears[sibling] = ear
                self._shared.begin(sibling, news)
            case {"news": news}:
                self._shared.hear(sibling, news)
                self._let_through()
        return None

    def _gone(self, sibling: int, ear: Ear) -> None:
        if self._ears.get(sibling) is ear:
            del self._ears[sibling], self._heard_at[sibling]
            self._shared.gone(sibling)
            self._let_through()

    def _let_through(self) -> None:
        """There may be room that a sibling has left."""
        for model in self._relay.directory().fleet.models:
            self._relay.gates.advance(model)
