"""Requests that wait for room, and the order in which they get it.

Of those whose workers can take one more (`lanes`), higher priorities go first. Inside a priority,
shares (request classes) take turns by what they have used, divided by their weight: start-time fair
queueing (Goyal, Vin and Cheng, 1996), with the prompt's size as cost. Inside a share, who can still
be in time goes before who is late already, each in the order of their coming, until it is overdue.
One turn in eight goes to whoever has waited longest, whatever its priority, so nobody waits for
ever. Negative priorities may not fill the queue: what comes above them finds room without anyone
being shed, and a refusal is told at once and not after some waiting. Full all the same, it sheds
the lowest negative priority for anyone above it, and inside a priority the newest of the share that
holds most places for a share that holds fewer, so that whoever floods the queue is the one who is
refused.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from penstock_contract.first_token import OLDEST_EVERY
from penstock_gateway.routing.destination import ANYWHERE, Destination

RESERVE = 4
"""One place in so many is not for negative priorities."""

Entries = OrderedDict[int, "Entry"]
"""By id, in the order of coming: any of them leaves at once, however many there are."""


@dataclass(frozen=True)
class Entry:
    """A request that waits."""

    id: int
    """Higher than those of requests that came before."""
    cost: int
    """Bytes of what is to be computed for it."""
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
    held: int = 0
    """Bytes that are kept while it waits."""
    lane: Destination = ANYWHERE
    """Equal where requests wait for the same workers."""


class Waiting(NamedTuple):
    """Requests of one share that wait."""

    priority: int
    name: str
    waiting: int


@dataclass
class _Line:
    """Requests of one share that wait for the same workers."""

    timely: Entries = field(default_factory=OrderedDict)
    late: Entries = field(default_factory=OrderedDict)
    """Those that cannot be in time any more."""

    def sort_out(self, now: float) -> None:
        """Find who is late by now."""
        while (first := _first(self.timely)) is not None and first.latest < now:
            self.late[first.id] = self.timely.pop(first.id)


@dataclass
class _Share:
    waiting: Entries = field(default_factory=OrderedDict)
    lines: dict[Destination, _Line] = field(default_factory=dict)
    """The same by lane, where anybody waits."""
    start: float = 0.0
    """Virtual time at which its next request begins."""
    weight: int = 1
    """Of its newest request."""

    def next(self, lanes: Iterable[Destination], now: float) -> Entry | None:
        """Return whose turn it is: the first overdue one, else the first that can be in time."""
        lines = [self.lines[lane] for lane in lanes if lane in self.lines]
        for line in lines:
            line.sort_out(now)
        late, timely = _oldest(x.late for x in lines), _oldest(x.timely for x in lines)
        if late is not None and (timely is None or late.overdue <= now):
            return late
        return timely

    def add(self, entry: Entry) -> None:
        """Let a request wait."""
        self.weight = entry.weight
        self.waiting[entry.id] = entry
        self.lines.setdefault(entry.lane, _Line()).timely[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Forget a request."""
        del self.waiting[entry.id]
        line = self.lines[entry.lane]
        del (line.timely if entry.id in line.timely else line.late)[entry.id]
        if not line.timely and not line.late:
            del self.lines[entry.lane]


@dataclass
class _Band:
    """All that wait with one priority."""

    shares: dict[str, _Share] = field(default_factory=dict)
    now: float = 0.0
    """Virtual time: the start of the request that was served last."""
    waiting: int = 0


class FairQueue:
    """Requests that wait for one model; bounded in number and in bytes.

    Args:
        max_bytes: that are kept for all that wait.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_requests = 0
        """Requests that may wait."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: Entries = OrderedDict()
        self._lanes: dict[Destination, Entries] = {}
        self._bands: dict[int, _Band] = {}
        self._turns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting_in(self, lane: Destination) -> int:
        """Return how many wait for the same workers."""
        found = self._lanes.get(lane)
        return len(found) if found else 0

    @property
    def lanes(self) -> dict[Destination, int]:
        """How many wait for the same workers."""
        return {lane: len(entries) for lane, entries in self._lanes.items()}

    def shares(self) -> list[Waiting]:
        """Return who waits, the highest priority first."""
        return [
            Waiting(priority, name, len(share.waiting))
            for priority, band in sorted(self._bands.items(), reverse=True)
            for name, share in band.shares.items()
            if share.waiting
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

    def pop(self, now: float = 0.0, lanes: Iterable[Destination] | None = None) -> Entry | None:
        """Return the request whose turn it is.

        Args:
            now: in seconds of the clock of `Entry.latest`.
            lanes: whose workers can take one more; None: those of all.
        """
        found = [lane for lane in (self._lanes if lanes is None else lanes) if lane in self._lanes]
        if not found:
            return None
        self._turns += 1
        if self._turns % OLDEST_EVERY == 0:
            entry = _oldest(self._lanes[lane] for lane in found)
        else:
            entry = self._fairest(found, now)
        if entry is not None:
            self._charge(entry)
            self.remove(entry.id)
        return entry

    def remove(self, entry_id: int) -> None:
        """Forget a request that does not wait any more."""
        entry = self._waiting.pop(entry_id, None)
        if entry is None:
            return
        self._bytes -= entry.held
        lane = self._lanes[entry.lane]
        del lane[entry.id]
        if not lane:
            del self._lanes[entry.lane]
        band = self._bands[entry.priority]
        band.shares[entry.share].remove(entry)
        band.waiting -= 1
        if not band.waiting:
            del self._bands[entry.priority]

    def _victims(self, entry: Entry) -> list[Entry] | None:
        """Return who must go for a request; None: it is the request itself.

        First the lowest negative priorities below it, newest first, else those of larger shares.
        """
        requests = self._too_many(entry)
        size = self._bytes + entry.held - self._max_bytes
        if requests <= 0 and size <= 0:
            return []
        bar = min(entry.priority, 0)
        below = [e for e in reversed(self._waiting.values()) if e.priority < bar]
        victims: list[Entry] = []
        for victim in sorted(below, key=lambda e: e.priority):
            victims.append(victim)
            size -= victim.held
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
        places = {name: len(share.waiting) for name, share in shares.items() if share.waiting}
        own = (places.pop(entry.share, 0) + 1) / entry.weight
        newest = {name: reversed(shares[name].waiting.values()) for name in places}
        requests = self._too_many(entry)
        size = self._bytes + entry.held - self._max_bytes
        victims: list[Entry] = []
        while len(victims) < requests or size > 0:
            held, name = max(
                ((n / shares[name].weight, name) for name, n in places.items()),
                default=(0.0, ""),
            )
            if held <= own:
                return None
            places[name] -= 1
            victims.append(next(newest[name]))
            size -= victims[-1].held
        return victims

    def _add(self, entry: Entry) -> None:
        self._waiting[entry.id] = entry
        self._lanes.setdefault(entry.lane, OrderedDict())[entry.id] = entry
        self._bytes += entry.held
        band = self._bands.setdefault(entry.priority, _Band())
        share = band.shares.setdefault(entry.share, _Share())
        if not share.waiting:  # being idle earns no credit
            share.start = max(share.start, band.now)
        share.add(entry)
        band.waiting += 1

    def _fairest(self, lanes: list[Destination], now: float) -> Entry | None:
        """Return whose turn it is among those of the highest priority that have one."""
        for priority in sorted(self._bands, reverse=True):
            shares = [
                share
                for share in self._bands[priority].shares.values()
                if any(lane in share.lines for lane in lanes)
            ]
            if shares:
                return min(shares, key=lambda share: share.start).next(lanes, now)
        return None

    def _charge(self, entry: Entry) -> None:
        band = self._bands[entry.priority]
        share = band.shares[entry.share]
        band.now = max(band.now, share.start)
        share.start += max(1, entry.cost) / entry.weight


def _first(entries: Entries) -> Entry | None:
    """Return who came first."""
    return next(iter(entries.values()), None)


def _oldest(lines: Iterable[Entries]) -> Entry | None:
    """Return who came first of all in several lines."""
    found = [first for line in lines if (first := _first(line)) is not None]
    return min(found, key=lambda entry: entry.id, default=None)
