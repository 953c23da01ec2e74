"""Requests that wait for room, and the order in which they get it.

Higher priorities first. Inside a priority, shares (request classes) take turns by what they have
used, divided by their weight: start-time fair queueing (Goyal, Vin and Cheng, 1996), with the
prompt's size as cost. Inside a share, who can still be in time goes before who is late already,
each in the order of their coming, until it is overdue. One turn in eight goes to whoever has waited
longest, whatever its priority, so nobody waits for ever. Negative priorities may not fill the
queue: what comes above them finds room without anyone being shed, and a refusal is told at once and
not after some waiting. Full all the same, it sheds the lowest negative priority for anyone above
it, and inside a priority the newest of the share that holds most places for a share that holds
fewer, so that whoever floods the queue is the one who is refused.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from penstock_contract.first_token import OLDEST_EVERY

RESERVE = 4
"""One place in so many is not for negative priorities."""


@dataclass(frozen=True, eq=False)  # a queue is searched for it, not for one like it
class Entry:
    """A request that waits."""

    id: int
    cost: int
    """Bytes of its prompt."""
    priority: int = 0
    """Higher goes first; negative may be shed."""
    share: str = ""
    """Whom it counts for inside its priority."""
    weight: int = 1
    """Of that share."""
    latest: float = inf
    """Until when it must go to be in time, in seconds of the clock of `FairQueue.pop`."""
    overdue: float = inf
    """From when nobody of its share goes before it, in time or not."""


class Waiting(NamedTuple):
    """Requests of one share that wait."""

    priority: int
    name: str
    waiting: int


@dataclass
class _Share:
    entries: deque[Entry] = field(default_factory=deque)
    late: deque[Entry] = field(default_factory=deque)
    """Those of them that cannot be in time any more."""
    start: float = 0.0
    """Virtual time at which its next request begins."""
    weight: int = 1
    """Of its newest request."""

    def __len__(self) -> int:
        return len(self.entries) + len(self.late)

    def next(self, now: float) -> Entry:
        """Return whose turn it is: the first overdue one, else the first that can be in time."""
        while self.entries and self.entries[0].latest < now:
            self.late.append(self.entries.popleft())
        if self.late and (self.late[0].overdue <= now or not self.entries):
            return self.late[0]
        return self.entries[0]

    def remove(self, entry: Entry) -> None:
        """Forget a request; it is mostly the next one."""
        for found in (self.entries, self.late):
            if found and found[0] is entry:
                found.popleft()
                return
        (self.late if entry in self.late else self.entries).remove(entry)

    def newest(self, number: int) -> Entry:
        """Return the request that has so many of its own before it."""
        if number < len(self.late):
            return self.late[number]
        return self.entries[number - len(self.late)]


@dataclass
class _Band:
    """All that wait with one priority."""

    shares: dict[str, _Share] = field(default_factory=dict)
    now: float = 0.0
    """Virtual time: the start of the request that was served last."""


class FairQueue:
    """Requests that wait for one model; bounded in number and in bytes.

    Args:
        max_bytes: bytes of prompts that may wait.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_requests = 0
        """Requests that may wait."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: OrderedDict[int, Entry] = OrderedDict()  # oldest first
        self._bands: dict[int, _Band] = {}
        self._turns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def shares(self) -> list[Waiting]:
        """Return who waits, the highest priority first."""
        return [
            Waiting(priority, name, len(share))
            for priority, band in sorted(self._bands.items(), reverse=True)
            for name, share in band.shares.items()
            if len(share)
        ]

    def offer(self, entry: Entry) -> list[Entry] | None:
        """Let a request wait; return those shed to make room for it, or None: it is refused."""
        shed = self._victims(entry)
        if shed is None:
            return None
        for victim in shed:
            self.remove(victim.id)
        self._add(entry)
        return shed

    def pop(self, now: float = 0.0) -> Entry | None:
        """Return the request whose turn it is; now is in seconds of the clock of `Entry.latest`."""
        if not self._waiting:
            return None
        self._turns += 1
        if self._turns % OLDEST_EVERY == 0:
            entry = next(iter(self._waiting.values()))
        else:
            entry = self._fairest(max(self._bands), now)
        self._charge(entry)
        self.remove(entry.id)
        return entry

    def remove(self, entry_id: int) -> None:
        """Forget a request that does not wait any more."""
        entry = self._waiting.pop(entry_id, None)
        if entry is None:
            return
        self._bytes -= entry.cost
        band = self._bands[entry.priority]
        band.shares[entry.share].remove(entry)
        if not any(len(share) for share in band.shares.values()):
            del self._bands[entry.priority]

    def _victims(self, entry: Entry) -> list[Entry] | None:
        """Return who must go for a request; None: it is the request itself.

        First the lowest negative priorities below it, newest first, else those of larger shares.
        """
        requests = self._too_many(entry)
        size = self._bytes + entry.cost - self._max_bytes
        if requests <= 0 and size <= 0:
            return []
        bar = min(entry.priority, 0)
        below = [e for e in reversed(self._waiting.values()) if e.priority < bar]
        victims: list[Entry] = []
        for victim in sorted(below, key=lambda e: e.priority):
            victims.append(victim)
            size -= victim.cost
            if len(victims) >= requests and size <= 0:
                return victims
        return self._of_larger_shares(entry)

    def _too_many(self, entry: Entry) -> int:
        """Return how many must go for a request, as far as their number is concerned."""
        places = self.max_requests - len(self._waiting)
        reserved = entry.priority < 0 and places <= self.max_requests // RESERVE
        return max(1 - places, int(reserved))

    def _of_larger_shares(self, entry: Entry) -> list[Entry] | None:
        """Return who must go so that no share holds more than others by having come first."""
        shares = self._bands.get(entry.priority, _Band()).shares
        places = {name: len(share) for name, share in shares.items() if len(share)}
        own = (places.pop(entry.share, 0) + 1) / entry.weight
        requests = self._too_many(entry)
        size = self._bytes + entry.cost - self._max_bytes
        victims: list[Entry] = []
        while len(victims) < requests or size > 0:
            held, name = max(
                ((n / shares[name].weight, name) for name, n in places.items()),
                default=(0.0, ""),
            )
            if held <= own:
                return None
            places[name] -= 1
            victims.append(shares[name].newest(places[name]))
            size -= victims[-1].cost
        return victims

    def _add(self, entry: Entry) -> None:
        self._waiting[entry.id] = entry
        self._bytes += entry.cost
        band = self._bands.setdefault(entry.priority, _Band())
        share = band.shares.setdefault(entry.share, _Share())
        if not len(share):  # being idle earns no credit
            share.start = max(share.start, band.now)
        share.weight = entry.weight
        share.entries.append(entry)

    def _fairest(self, priority: int, now: float) -> Entry:
        shares = self._bands[priority].shares.values()
        return min((s for s in shares if len(s)), key=lambda s: s.start).next(now)

    def _charge(self, entry: Entry) -> None:
        band = self._bands[entry.priority]
        share = band.shares[entry.share]
        band.now = max(band.now, share.start)
        share.start += max(1, entry.cost) / entry.weight
