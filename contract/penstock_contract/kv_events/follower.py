"""What to believe of a worker's KV events: nothing across an epoch, nothing across a gap. Pure.

Messages of a worker are numbered from 0 in each epoch, that is, each start of its engine. When one
is missing, a removal may be among what was missed, so everything known is dropped and built again
from a replay. Live messages that arrive meanwhile are kept for after it, so that a busy worker is
caught up with in one go. A replay knows only the latest messages: what was stored before is then
unknown, which costs a cache hit and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock_contract.kv_events.wire import Event

MAX_KEPT = 10_000
"""Live messages kept during a replay; when there are more, the replay is asked for again."""


@dataclass
class Update:
    """What the follower's index has to do, in this order."""

    reset: bool = False
    """Drop everything known of this worker."""
    events: list[Event] = field(default_factory=list)
    """Take these in."""
    replay: bool = False
    """Ask the worker for a replay from 0."""


class Follower:
    """Follows one worker."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.catching_up = False
        """A replay was asked for and has not ended."""
        self._next = 0
        self._kept: dict[int, Sequence[Event]] = {}

    def live(self, epoch: str, number: int, events: Sequence[Event]) -> Update:
        """Take a message of the PUB socket."""
        update = Update()
        if epoch != self.epoch:
            update.reset = self.epoch is not None
            self._begin(epoch)
        if self.catching_up:
            self._keep(number, events)
        elif number == self._next:
            self._take(update, number, events)
        elif number > self._next:
            self._fall_behind(update)
            self._keep(number, events)
        return update  # a lower number was taken already

    def replayed(self, epoch: str, number: int, events: Sequence[Event]) -> Update:
        """Take a message of a replay."""
        update = Update()
        if self.catching_up and epoch == self.epoch and number >= self._next:
            if number > self._next:  # the worker no longer knows what was before
                update.reset = True
            self._take(update, number, events)
        return update

    def replay_ended(self) -> Update:
        """Take what was kept while the replay came; a gap behind it asks for another one."""
        update = Update()
        if not self.catching_up:
            return update
        self.catching_up = False
        kept, self._kept = self._kept, {}
        for number in sorted(kept):
            if self.catching_up:
                self._keep(number, kept[number])
            elif number == self._next:
                self._take(update, number, kept[number])
            elif number > self._next:
                self._fall_behind(update)
                self._keep(number, kept[number])
        return update

    def lost(self) -> Update:
        """The connection broke, or a replay did not come: ask for everything again."""
        update = Update()
        if self.epoch is not None:
            self._fall_behind(update)
        return update

    def _begin(self, epoch: str) -> None:
        self.epoch = epoch
        self.catching_up = False
        self._next = 0
        self._kept = {}

    def _fall_behind(self, update: Update) -> None:
        update.reset = True
        update.events = []
        update.replay = True
        self.catching_up = True
        self._next = 0
        self._kept = {}

    def _keep(self, number: int, events: Sequence[Event]) -> None:
        if len(self._kept) == MAX_KEPT:
            del self._kept[min(self._kept)]
        self._kept[number] = events

    def _take(self, update: Update, number: int, events: Sequence[Event]) -> None:
        update.events += events
        self._next = number + 1
