"""All other ranks, as rank 0 starts, tells and watches them."""

import contextlib
import os
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from penstock_worker.engine_config import EngineConfig
from penstock_worker.tensor_parallel.gathering import Joined
from penstock_worker.tensor_parallel.group import RankLost
from penstock_worker.tensor_parallel.link import Link
from penstock_worker.tensor_parallel.messages import BEAT_SECONDS, Alive, Order
from penstock_worker.tensor_parallel.rank_config import Meeting, RankConfig
from penstock_worker.tensor_parallel.starting import RankProcess
from penstock_worker.wire import encode

NOTICE_SECONDS = 1.0
"""Between what a rank's end does to the others and the news of it."""
GRACE_SECONDS = 3.0
"""For rank 0 to end by itself when it has lost a rank; a GPU may never return from a collective."""
ENDING_SECONDS = 2.0
"""For a rank to end when rank 0 has gone."""

T = TypeVar("T")


class Ranks:
    """All ranks but the first.

    Whoever drops this, or ends, takes them along.

    Args:
        config: of the engine.
        meeting: where they find each other.
        remote: ranks of other nodes, which know the meeting.
    """

    def __init__(
        self,
        config: EngineConfig,
        meeting: Meeting,
        remote: Mapping[int, Joined],
    ) -> None:
        self._watch = _Watch()
        count = config.tensor_parallel_size

        def link(rank: int) -> Link:
            name = f"rank {rank} of {count}"
            end, leaving = self._watch.ended, self._watch.leave
            if rank in remote:
                name = f"{name}, on node {rank // config.local_ranks} at {remote[rank].at},"
                return Link(name, remote[rank].connection, meeting, end, leaving)
            ours, theirs = socket.socketpair()
            with theirs:
                process = RankProcess(RankConfig(config, rank, meeting, meeting.host), theirs)
            return Link(name, ours, meeting, end, leaving, process)

        self._links = [link(rank) for rank in range(1, count)]
        closing = self._watch.closing
        threading.Thread(target=_beat, args=(self._links, closing), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._links, closing)
        """Ends the others, and waits until they have ended."""

    @property
    def leaving(self) -> str:
        """Which rank's node was told to end; empty while none was."""
        return self._watch.leaving

    def heed(self, wake: Callable[[], None]) -> None:
        """Have `wake` called from another thread when `leaving` begins, or one has ended."""
        self._watch.wake = wake
        if self.leaving or self._watch.lost.is_set():
            wake()

    def check(self) -> None:
        """Do nothing while all are there.

        Raises:
            RankLost: one of them has ended; the message says why.
        """
        if self._watch.lost.is_set():
            raise RankLost(self._first_lost())

    def hear(self, kind: type[T]) -> dict[str, T]:
        """Wait until each has reported so; return that by the ranks' names.

        Raises:
            RankLost: one of them has ended instead; the message says why.
        """
        found = {}
        for link in self._links:
            report = link.reports.get()
            if not isinstance(report, kind):
                raise RankLost(self._first_lost())
            found[link.name] = report
        return found

    def tell(self, order: Order) -> None:
        """Tell all of them.

        Raises:
            RankLost: one of them has ended.
        """
        data = encode(order)
        try:
            for link in self._links:
                link.tell(data)
        except OSError as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> RankLost:
        """Return why a step could not be computed: the rank that ended, if one did."""
        if self._watch.lost.wait(NOTICE_SECONDS):
            return RankLost(self._first_lost())
        return RankLost(f"the ranks do not answer each other: {error}")

    def _first_lost(self) -> str:
        """Return what is known of the rank whose end was the first, not only a consequence."""
        ended = [link for link in self._links if link.end]
        return min(ended, key=lambda link: link.kind).end


class _Watch:
    """What the links' threads notice."""

    def __init__(self) -> None:
        self.lost = threading.Event()
        self.closing = threading.Event()
        self.leaving = ""
        self.wake: Callable[[], None] = _nothing

    def ended(self, link: Link) -> None:
        """Note that a rank has ended; if it was not to end, this process must not go on."""
        self.lost.set()
        if self.closing.is_set():
            return
        sys.stderr.write(f"penstock-worker: {link.end}\n")
        sys.stderr.flush()
        self.wake()
        if not self.closing.wait(GRACE_SECONDS):
            os._exit(1)

    def leave(self, link: Link) -> None:
        """Note that a rank's node was told to end."""
        self.leaving = link.name
        self.wake()


def _nothing() -> None:
    """Do nothing: nobody waits yet."""


def _beat(links: Sequence[Link], closing: threading.Event) -> None:
    """Give signs of life; whom none reaches notices that itself."""
    alive = encode(Alive())
    while not closing.wait(BEAT_SECONDS):
        for link in links:
            with contextlib.suppress(OSError):  # its own thread notices
                link.tell(alive)


def _end(links: Sequence[Link], closing: threading.Event) -> None:
    """End the others: by closing their connections, and by force where that does not help."""
    closing.set()
    for link in links:
        link.shut()
    for link in links:
        link.close(ENDING_SECONDS)
