"""A tier on a disk: bounded, shared, and nobody waits for it."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from descriptors import no_more_files
from tiered import files
from waiting import PATIENCE
from worker_process import eventually

from penstock_contract.tiers import Skipped
from penstock_worker.tiers import disk as module
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.tiers.folder import BlockFolder, Found, Key
from penstock_worker.transfer.memory import Buffer

BLOCK = 1000
FILE = 4096
"""Bytes that a block takes on the disk."""
FINGERPRINT = b"f" * 32


class SlowFolder(BlockFolder):
    """Writes when it is told to, or refuses."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.go = Event(), Event()
        self.refuses = False
        self.reason = errno.ENOSPC

    def write(self, key: Key, kv: Sequence[Buffer]) -> int:
        self.begun.set()
        self.go.wait()
        if self.refuses:
            raise OSError(self.reason, os.strerror(self.reason))
        return super().write(key, kv)


class UnreadableFolder(BlockFolder):
    """Can be scanned, or not."""

    fails = False
    scans = 0

    def scan(self) -> Iterator[Found]:
        self.scans += 1
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().scan()


class Scanned(DiskTier):
    """Says when it knows what was there; before, it may still take up what is removed meanwhile."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scanned = Event()

    def _take_over(self, found: list[Found]) -> None:
        super()._take_over(found)
        self.scanned.set()


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Callable[..., DiskTier]]:
    made: list[DiskTier] = []

    def make(
        folder: BlockFolder | None = None,
        blocks: int = 100,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> DiskTier:
        found = Scanned(
            folder or BlockFolder(tmp_path / "kv"),
            FINGERPRINT,
            block_bytes=BLOCK,
            capacity=blocks * FILE,
            clock=clock,
        )
        found.start()
        made.append(found)
        assert found.scanned.wait(PATIENCE)
        return found

    yield make
    for one in made:
        one.close(0.0)


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def kv(number: int) -> bytes:
    return bytes([number % 256]) * BLOCK


def put(found: DiskTier, *numbers: int) -> None:
    for number in numbers:
        if found.wants(name(number)):
            found.put(name(number), kv(number))


def stored(found: DiskTier) -> None:
    eventually(lambda: not found.pending, "everything is written")


def read(found: DiskTier, number: int) -> bytes | None:
    data = found.read(name(number), found.buffer())
    return None if data is None else bytes(data)


def test_a_block_comes_back(tier: Callable[..., DiskTier]) -> None:
    found = tier()
    put(found, 1)
    stored(found)
    assert found.has([name(1), name(2)]) == [True, False]
    assert read(found, 1) == kv(1)
    assert (found.used, found.stored_bytes) == (FILE, BLOCK)
    assert found.changes() == [(name(1), True)]
    assert found.changes() == []


def test_changes_that_nobody_takes_do_not_pile_up(tier: Callable[..., DiskTier]) -> None:
    """An idle worker takes none, while others write to the folder that it shares."""
    found = tier(blocks=2)
    for number in range(20):
        found.put(name(number), kv(number))
        stored(found)
    eventually(lambda: found.used <= 2 * FILE, "there is room again")
    assert sorted(found.changes()) == [(name(18), True), (name(19), True)]
    found.put(name(19), kv(19))  # again, as when two workers wrote it
    found.put(name(20), kv(20))
    stored(found)
    eventually(lambda: found.used <= 2 * FILE, "there is room again")
    assert sorted(found.changes()) == [(name(18), False), (name(20), True)]


def test_a_known_block_is_not_written_again(tier: Callable[..., DiskTier]) -> None:
    found = tier()
    put(found, 1, 1)
    stored(found)
    put(found, 1)
    stored(found)
    assert found.stored_bytes == BLOCK


def test_what_waits_to_be_written_can_be_read(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    folder = SlowFolder(tmp_path)
    found = tier(folder)
    put(found, 1, 2)
    assert found.has([name(1), name(2)]) == [True, True]
    assert [read(found, 1), read(found, 2)] == [kv(1), kv(2)]
    folder.go.set()
    stored(found)


def test_a_disk_that_does_not_keep_up_loses_the_oldest(
    tier: Callable[..., DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_BYTES", 3 * BLOCK)
    folder = SlowFolder(tmp_path)
    found = tier(folder)
    put(found, 0)
    assert folder.begun.wait(PATIENCE)
    put(found, 1, 2, 3, 4, 5)
    assert found.skipped[Skipped.DROPPED] >= 2
    assert found.has([name(5), name(4)]) == [True, True]
    assert not found.has([name(1)])[0]
    folder.go.set()
    stored(found)


def test_files_take_no_more_than_the_capacity(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    found = tier(blocks=5)
    for number in range(20):
        for _ in range(2):
            found.see([name(number)])
        put(found, number)
        stored(found)
    eventually(lambda: len(list(files(tmp_path))) == 5, "the least recently used were removed")
    assert found.used == 5 * FILE
    assert found.has([name(19), name(0)]) == [True, False]
    changes = found.changes()
    assert sum(1 if here else -1 for _, here in changes) == 5


def test_a_full_tier_declines_what_nobody_asked_for_twice(tier: Callable[..., DiskTier]) -> None:
    found = tier(blocks=2)
    for number in (1, 2):
        put(found, number)
    put(found, *range(10, 30))
    stored(found)
    assert found.skipped[Skipped.DECLINED] >= 19


def test_a_full_disk_stops_writing_for_a_while_and_nothing_else(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    now = 0.0
    folder = SlowFolder(tmp_path)
    found = tier(folder, clock=lambda: now)
    folder.refuses = True
    folder.go.set()
    put(found, 1)
    eventually(lambda: found.skipped[Skipped.FAILED] == 1, "the disk refuses")
    stored(found)
    put(found, 2)
    assert found.skipped[Skipped.FAILED] == 2
    assert found.has([name(1), name(2)]) == [False, False]
    folder.refuses = False
    now = module.PAUSE_SECONDS
    put(found, 3)
    stored(found)
    assert read(found, 3) == kv(3)


def test_a_full_disk_is_left_more_room_by_the_least_recently_used(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    """As where the volume is smaller than the capacity, or others fill it."""
    folder = SlowFolder(tmp_path)
    found = tier(folder)
    folder.go.set()
    put(found, *range(32))
    stored(found)
    folder.refuses = True
    put(found, 32)
    eventually(lambda: found.used == 30 * FILE, "a sixteenth leaves")
    assert found.has([name(number) for number in range(3)]) == [False, False, True]
    eventually(lambda: len(list(files(tmp_path))) == 30, "their files are removed")


def test_a_damaged_block_is_a_miss_and_is_forgotten(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    found = tier()
    put(found, 1, 2)
    stored(found)
    for path in files(tmp_path):
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.write_bytes(content)
    assert read(found, 1) is None
    assert found.corrupt == 1
    assert found.has([name(1)]) == [False]
    put(found, 1)  # it was computed again
    stored(found)
    assert read(found, 1) == kv(1)


def test_a_block_that_cannot_be_read_once_is_a_miss_until_the_next_scan(
    tier: Callable[..., DiskTier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.02)
    found = tier()
    put(found, 1)
    stored(found)
    with no_more_files():
        assert read(found, 1) is None
    eventually(lambda: found.has([name(1)]) == [True], "the scan found it")
    assert read(found, 1) == kv(1)
    assert found.corrupt == 0


def test_a_scan_that_fails_takes_nothing_for_gone(
    tier: Callable[..., DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.02)
    folder = UnreadableFolder(tmp_path)
    found = tier(folder)
    put(found, 1)
    stored(found)
    folder.fails = True
    scans = folder.scans
    eventually(lambda: folder.scans > scans + 2, "it was scanned in vain")
    assert (found.has([name(1)]), found.used) == ([True], FILE)
    folder.fails = False
    for path in files(tmp_path):
        path.unlink()
    eventually(lambda: found.has([name(1)]) == [False], "what is gone is noticed")


def test_a_tier_outlives_its_folder(
    tier: Callable[..., DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.02)
    found = tier()
    put(found, 1, 2)
    stored(found)
    shutil.rmtree(tmp_path / "kv")
    assert read(found, 1) is None
    eventually(lambda: found.has([name(2)]) == [False], "the scan has noticed")
    assert found.used == 0
    put(found, 3)
    stored(found)
    assert read(found, 3) == kv(3)


def test_a_folder_that_becomes_read_only_is_still_read(
    tier: Callable[..., DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.02)
    folder = SlowFolder(tmp_path)
    found = tier(folder)
    folder.go.set()
    put(found, 1)
    stored(found)
    folder.refuses, folder.reason = True, errno.EROFS
    put(found, 2)
    eventually(lambda: found.skipped[Skipped.FAILED] == 1, "the disk refuses")
    stored(found)
    assert read(found, 1) == kv(1)
    assert found.has([name(1), name(2)]) == [True, False]


def test_a_restarted_worker_finds_what_was_there(tier: Callable[..., DiskTier]) -> None:
    first = tier()
    put(first, 1, 2, 3)
    stored(first)
    second = tier()
    eventually(lambda: second.used == 3 * FILE, "the folder was scanned")
    assert read(second, 2) == kv(2)
    assert sorted(second.changes()) == [(name(n), True) for n in (1, 2, 3)]


def test_after_a_restart_the_least_recently_used_still_leaves_first(
    tier: Callable[..., DiskTier],
) -> None:
    first = tier()
    for number in (1, 2, 3):
        put(first, number)
        stored(first)
    first.touch([name(1)])
    second = tier(blocks=2)
    numbers = [name(1), name(2), name(3)]
    eventually(lambda: second.has(numbers) == [True, False, True], "the one in between has left")


def test_of_a_prompt_that_was_of_use_the_tail_leaves_first(tier: Callable[..., DiskTier]) -> None:
    found = tier(blocks=4)
    put(found, 1, 2, 3)
    stored(found)
    found.touch([name(1), name(2), name(3)])
    for number in (4, 5):
        for _ in range(2):
            found.see([name(number)])
        put(found, number)
        stored(found)
    eventually(lambda: found.used == 4 * FILE, "one was removed")
    assert found.has([name(1), name(2), name(3)]) == [True, True, False]


def holds(found: DiskTier, blocks: int) -> bool:
    return found.used == blocks * FILE


def test_workers_share_a_folder(
    tier: Callable[..., DiskTier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCAN_SECONDS", 0.02)
    first, second = tier(), tier()
    put(first, 1, 2)
    put(second, 3, 2)
    for one in (first, second):
        eventually(partial(holds, one, 3), "each sees the other's blocks")
        assert [read(one, number) for number in (1, 2, 3)] == [kv(1), kv(2), kv(3)]


def test_what_another_worker_removed_is_a_miss(
    tier: Callable[..., DiskTier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tier()
    put(found, 1)
    stored(found)
    for path in files(tmp_path):
        path.unlink()
    assert read(found, 1) is None
    assert found.has([name(1)]) == [False]
    assert found.corrupt == 0


def test_another_models_blocks_count_and_leave_but_are_never_read(
    tier: Callable[..., DiskTier], tmp_path: Path
) -> None:
    folder = BlockFolder(tmp_path / "kv")
    folder.write(Key(b"g" * 32, name(1)), [kv(1)])
    found = tier(folder, blocks=1)
    eventually(lambda: found.used == FILE, "it was scanned")
    assert found.has([name(1)]) == [False]
    found.see([name(2)])
    found.see([name(2)])
    put(found, 2)
    stored(found)
    eventually(lambda: found.used == FILE, "the older one was removed")
    assert read(found, 2) == kv(2)
    assert found.changes() == [(name(2), True)]


def test_closing_writes_what_waits(tier: Callable[..., DiskTier]) -> None:
    first = tier()
    put(first, *range(20))
    first.close(60.0)
    second = tier()
    eventually(lambda: second.used == 20 * FILE, "all were written")
