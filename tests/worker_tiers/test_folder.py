"""Blocks as files, which come whole, go alone, and may be anybody's."""

import os
import shutil
import time
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from descriptors import no_more_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiered import files

from penstock_worker.tiers import folder as module
from penstock_worker.tiers.block_file import OVERHEAD
from penstock_worker.tiers.folder import ABANDONED_SECONDS, BlockFolder, Corrupt, Key, disk_size

KEY = Key(b"f" * 32, b"n" * 16)
KV = bytes(range(256)) * 4


@pytest.fixture
def folder(tmp_path: Path) -> BlockFolder:
    return BlockFolder(tmp_path / "kv")


def read(folder: BlockFolder, key: Key = KEY) -> bytes | None:
    kv = folder.read(key, bytearray(len(KV) + OVERHEAD))
    return None if kv is None else bytes(kv)


def test_a_block_is_written_found_and_removed(folder: BlockFolder) -> None:
    assert read(folder) is None
    size = folder.write(KEY, [KV[:100], KV[100:]])
    assert read(folder) == KV
    (found,) = folder.scan()
    assert (found.key, found.size) == (KEY, size)
    assert size == disk_size(len(KV) + OVERHEAD)
    folder.remove(KEY)
    folder.remove(KEY)  # somebody else was sooner
    assert read(folder) is None
    assert list(folder.scan()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_removed(
    folder: BlockFolder, tmp_path: Path, data: st.DataObject
) -> None:
    folder.write(KEY, [KV])
    (path,) = files(tmp_path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(data.draw(st.sampled_from([content, content[:place], content + b"x"])))
    with pytest.raises(Corrupt):
        read(folder)
    assert read(folder) is None
    assert not list(files(tmp_path))


def test_a_folder_in_a_files_place_is_damage_too(folder: BlockFolder, tmp_path: Path) -> None:
    folder.write(KEY, [KV])
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Corrupt):
        read(folder)


def test_a_block_that_cannot_be_read_this_time_stays(folder: BlockFolder) -> None:
    folder.write(KEY, [KV])
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        read(folder)
    assert read(folder) == KV


def test_a_block_that_comes_in_pieces_is_whole(
    folder: BlockFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network's file system may give it."""
    folder.write(KEY, [KV])

    class Halting(FileIO):
        def readinto(self, into: Any) -> int:
            return super().readinto(memoryview(into)[:100])

    monkeypatch.setattr(module, "open", lambda path, mode, **_: Halting(path, mode), raising=False)
    assert read(folder) == KV


def test_a_scan_that_cannot_read_does_not_pretend_there_is_nothing(folder: BlockFolder) -> None:
    folder.write(KEY, [KV])
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        list(folder.scan())


def test_a_folder_that_was_cleared_is_made_again_for_its_owner_only(
    folder: BlockFolder, tmp_path: Path
) -> None:
    folder.write(KEY, [KV])
    shutil.rmtree(tmp_path / "kv")
    assert read(folder) is None
    assert list(folder.scan()) == []
    folder.write(KEY, [KV])
    assert read(folder) == KV
    assert (tmp_path / "kv").stat().st_mode & 0o077 == 0


def test_a_write_that_fails_leaves_nothing(folder: BlockFolder, tmp_path: Path) -> None:
    (tmp_path / "kv" / KEY.fingerprint.hex()).write_text("in the way")
    with pytest.raises(OSError, match="File exists"):
        folder.write(KEY, [KV])
    assert len(list(files(tmp_path))) == 1


def test_what_a_dead_worker_left_unfinished_is_removed(folder: BlockFolder, tmp_path: Path) -> None:
    folder.write(KEY, [KV])
    (path,) = files(tmp_path)
    old, fresh = path.with_name(".old.1.tmp"), path.with_name(".fresh.2.tmp")
    for one in (old, fresh):
        one.write_bytes(b"half")
    then = time.time() - 2 * ABANDONED_SECONDS
    os.utime(old, (then, then))
    assert [found.key for found in folder.scan()] == [KEY]
    assert not old.exists()
    assert fresh.exists()


def test_strange_files_are_left_alone(folder: BlockFolder, tmp_path: Path) -> None:
    for name in ("notes.txt", "ab", "zz" * 16):
        place = tmp_path / "kv" / KEY.fingerprint.hex() / "ab"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("mine")
    assert list(folder.scan()) == []
    assert len(list(files(tmp_path))) == 3


def test_only_its_owner_reads_a_folder(folder: BlockFolder, tmp_path: Path) -> None:
    folder.write(KEY, [KV])
    assert (tmp_path / "kv").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(tmp_path))


def test_a_use_is_noted_for_later(folder: BlockFolder, tmp_path: Path) -> None:
    folder.write(KEY, [KV])
    (path,) = files(tmp_path)
    os.utime(path, (1, 1))
    (before,) = folder.scan()
    folder.touch(Key(KEY.fingerprint, b"m" * 16))  # it has gone
    folder.touch(KEY)
    (after,) = folder.scan()
    assert after.used_at > before.used_at


def test_workers_of_one_process_id_write_a_block_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers, where every worker's engine has the same."""
    one, other = BlockFolder(tmp_path), BlockFolder(tmp_path)
    real = module._private

    def beside_another(path: str, flags: int) -> int:
        opened = real(path, flags)
        monkeypatch.setattr(module, "_private", real)
        other.write(KEY, [KV])
        return opened

    monkeypatch.setattr(module, "_private", beside_another)
    one.write(KEY, [KV])
    assert read(one) == KV
    assert len(list(files(tmp_path))) == 1
