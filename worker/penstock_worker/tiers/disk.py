"""A tier on a disk: what it holds, and a thread that writes to it beside the engine's steps.

The engine's thread asks what is there and hands over copies; it never waits for the disk. Copies
wait in a bounded queue, where they can be read already; when that is full, the oldest is dropped:
blocks of a prompt leave the prefix cache last block first, and without its head a tail is nothing.

What lies in the folder from earlier is found by a scan in the background. It is repeated, since
other workers may share the folder: they see each other's blocks after a while, and each one removes
the least recently used when there are too many.
"""

import errno
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from penstock_contract.tiers import Skipped
from penstock_worker.tiers.admission import Admission
from penstock_worker.tiers.block_file import OVERHEAD
from penstock_worker.tiers.folder import BlockFolder, Corrupt, Found, Key, disk_size
from penstock_worker.tiers.index import SegmentedLRU

QUEUE_BYTES: Final = 256 << 20
"""Of copies that wait to be written."""
PAUSE_SECONDS: Final = 30.0
"""Without writing, after the disk has refused."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
YIELD: Final = 1 / 16
"""Of what the tier has, that leaves each time when the disk is full sooner than the tier."""
SCAN_SECONDS: Final = 30.0
"""Between scans, at least."""
SCAN_SHARE: Final = 0.05
"""Of the time, that scans take at most."""

log = logging.getLogger("penstock.worker.tiers")


class DiskTier:
    """Blocks in a folder, bounded in bytes.

    Args:
        folder: where they are.
        fingerprint: what this engine's blocks mean.
        block_bytes: KV of a block.
        capacity: bytes that all files together may take.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: BlockFolder,
        fingerprint: bytes,
        *,
        block_bytes: int,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.stored_bytes = 0
        self.corrupt = 0
        self.skipped: Counter[str] = Counter()
        self._folder = folder
        self._fingerprint = fingerprint
        self._size = disk_size(block_bytes + OVERHEAD)
        self._file_bytes = block_bytes + OVERHEAD
        self._queue_length = max(1, QUEUE_BYTES // block_bytes)
        self._clock = clock
        self._lock = threading.Condition()
        self._index: SegmentedLRU[Key] = SegmentedLRU(capacity)
        self._admission = Admission(capacity, self._size)
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()
        self._writing: tuple[bytes, bytes] | None = None
        self._changes: dict[bytes, bool] = {}
        self._new: set[Key] = set()
        """What was stored since the latest scan began: it may have missed that."""
        self._paused_until = 0.0
        self._closed = False

    def start(self) -> None:
        """Begin to write, and to find out what is there."""
        for work in (self._write_all, self._scan_all):
            threading.Thread(target=work, name="kv-tier", daemon=True).start()

    def close(self, patience: float) -> None:
        """Write what waits, as far as that can be done in so many seconds; then stop."""
        with self._lock:
            self._lock.wait_for(lambda: not self._waiting and not self._writing, patience)
            self._closed = True
            self._lock.notify_all()

    @property
    def used(self) -> int:
        """Bytes on the disk, as far as is known."""
        return self._index.used

    @property
    def pending(self) -> int:
        """Blocks that wait to be written."""
        with self._lock:
            return len(self._waiting) + (self._writing is not None)

    def see(self, names: Iterable[bytes]) -> None:
        """A request asks for these blocks."""
        with self._lock:
            self._admission.sightings.see(names)

    def has(self, names: Sequence[bytes]) -> list[bool]:
        """Return of each block whether it is here."""
        with self._lock:
            return [self._knows(name) for name in names]

    def wants(self, name: bytes) -> bool:
        """Return whether `put` should get a block that leaves the prefix cache."""
        now = self._clock()
        with self._lock:
            if self._closed or self._knows(name):
                return False
            if now < self._paused_until:
                self.skipped[Skipped.FAILED] += 1
                return False
            expected = self._index.used + self._size * (len(self._waiting) + 1)
            if self._admission.admits(name, room=expected <= self.capacity, now=now):
                return True
            self.skipped[Skipped.DECLINED] += 1
            return False

    def put(self, name: bytes, kv: bytes) -> None:
        """Write a block's KV soon, if the disk keeps up."""
        with self._lock:
            if len(self._waiting) == self._queue_length:
                self._waiting.popitem(last=False)
                self.skipped[Skipped.DROPPED] += 1
            self._waiting[name] = kv
            self._lock.notify_all()

    def buffer(self) -> bytearray:
        """Return room for `read`."""
        return bytearray(self._file_bytes)

    def read(self, name: bytes, into: bytearray) -> memoryview | bytes | None:
        """Return a block's KV, perhaps in the buffer; None when it is not here after all."""
        key = self._key(name)
        with self._lock:
            queued = self._queued(name)
        if queued is not None:
            return queued
        try:
            kv = self._folder.read(key, into)
        except Corrupt as error:
            log.warning("%s", error)
            self.corrupt += 1
            kv = None
        except OSError as error:  # the next scan finds the file again, if it is still there
            log.warning("a block is computed instead of read: %s", error)
            kv = None
        if kv is None:
            self._forget(key)
        return kv

    def touch(self, names: Sequence[bytes]) -> None:
        """Blocks of a prompt, in order, were of use: its head is to leave last."""
        for name in reversed(names):
            key = self._key(name)
            with self._lock:
                self._index.touch(key)
            self._folder.touch(key)

    def changes(self) -> list[tuple[bytes, bool]]:
        """Return what came (True) and went (False) since this was last called.

        What did both is left out, so they are no more than the tier holds or has held then.
        """
        with self._lock:
            changes, self._changes = self._changes, {}
        return list(changes.items())

    def _key(self, name: bytes) -> Key:
        return Key(self._fingerprint, name)

    def _queued(self, name: bytes) -> bytes | None:
        if self._writing is not None and self._writing[0] == name:
            return self._writing[1]
        return self._waiting.get(name)

    def _knows(self, name: bytes) -> bool:
        return self._queued(name) is not None or self._key(name) in self._index

    def _write_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._writing = self._waiting.popitem(last=False)
            self._write(*self._writing)
            with self._lock:
                self._writing = None
                self._lock.notify_all()
            self._make_room()

    def _write(self, name: bytes, kv: bytes) -> None:
        key = self._key(name)
        try:
            size = self._folder.write(key, [kv])
        except OSError as error:
            log.warning("no KV is written for %.0f s: %s", PAUSE_SECONDS, error)
            with self._lock:
                self._paused_until = self._clock() + PAUSE_SECONDS
                self.skipped[Skipped.FAILED] += 1 + len(self._waiting)
                self._waiting.clear()
            if error.errno in FULL:
                self._make_room(int(self._index.used * (1 - YIELD)))
            return
        with self._lock:
            if key not in self._index:
                self._note(key, here=True)
            self._index.add(key, size, protected=self._admission.sightings.again(name))
            self._new.add(key)
            self.stored_bytes += len(kv)

    def _make_room(self, most: int | None = None) -> None:
        while True:
            with self._lock:
                key = self._index.victim(most)
            if key is None:
                return
            self._forget(key)
            self._folder.remove(key)

    def _forget(self, key: Key) -> None:
        with self._lock:
            if self._index.discard(key):
                self._note(key, here=False)

    def _scan_all(self) -> None:
        while True:
            began = time.monotonic()
            with self._lock:
                self._new = set()
            try:
                self._take_over(list(self._folder.scan()))
            except OSError as error:  # what was not seen is not gone
                log.warning("what is known of the tier stays as it is: %s", error)
            self._make_room()
            pause = max(SCAN_SECONDS, (time.monotonic() - began) / SCAN_SHARE)
            with self._lock:
                if self._lock.wait_for(lambda: self._closed, pause):
                    return

    def _take_over(self, found: list[Found]) -> None:
        """Learn of what others have written and removed."""
        there = {one.key for one in found}
        oldest_first = sorted(found, key=lambda one: one.used_at)
        with self._lock:
            known = set(self._index.keys())
            for gone in known - there - self._new:
                self._index.discard(gone)
                self._note(gone, here=False)
            self._index.add_oldest((one.key, one.size) for one in oldest_first)
            for new in there - known:
                self._note(new, here=True)

    def _note(self, key: Key, *, here: bool) -> None:
        """Note a change for routers, to whom other models' blocks are nothing."""
        if key.fingerprint == self._fingerprint and self._changes.pop(key.name, here) == here:
            self._changes[key.name] = here
