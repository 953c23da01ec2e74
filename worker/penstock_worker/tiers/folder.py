"""Blocks as files: one each, under its name, so that several workers may share a folder.

    FOLDER/<fingerprint>/<first byte of the name>/<name>

A file appears whole, by renaming, and is never changed; equal names have equal content. So workers
need no lock: two may write one block, or remove one, and neither is harmed.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Final, NamedTuple

from penstock_worker.tiers.block_file import (
    FINGERPRINT_BYTES,
    checksum,
    header,
    kv_of,
)
from penstock_worker.transfer.memory import Buffer

NAME_BYTES: Final = 16
UNFINISHED: Final = ".tmp"
ABANDONED_SECONDS: Final = 600.0
"""After which an unfinished file belongs to a worker that died."""
_SECTOR: Final = 4096


class Corrupt(Exception):
    """A file is not the block that its name says; it was removed."""


class Key(NamedTuple):
    """Which block: of which model, type and layout, and of which tokens."""

    fingerprint: bytes
    name: bytes


class Found(NamedTuple):
    """A file that a scan came upon."""

    key: Key
    size: int
    """Bytes that it takes on the disk."""
    used_at: float
    """Unix seconds."""


def disk_size(length: int) -> int:
    """Return the bytes that a file of this length takes."""
    return -(-length // _SECTOR) * _SECTOR


class BlockFolder:
    """A folder of blocks.

    Args:
        root: it; made when it is not there.

    Raises:
        OSError: it cannot be made or written to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # Not the process id: in containers that share a folder, it is the same for all.
        self._unfinished = f".{secrets.token_hex(8)}{UNFINISHED}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = root / self._unfinished
        probe.touch(mode=0o600)
        probe.unlink()

    def write(self, key: Key, kv: Sequence[Buffer]) -> int:
        """Store a block, given in pieces; return the bytes that it takes on the disk.

        Raises:
            OSError: it could not be written; nothing is left of it.
        """
        path = self._path(key)
        head = header(key.fingerprint, key.name, sum(map(len, kv)))
        content = [head, *kv, checksum([head, *kv])]
        for folder in (self._root, path.parents[1], path.parent):  # somebody may have cleared it
            folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = path.with_name(f".{path.name}{self._unfinished}")
        try:
            with open(unfinished, "wb", opener=_private) as file:
                file.writelines(content)
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        return disk_size(sum(map(len, content)))

    def read(self, key: Key, into: bytearray) -> memoryview | None:
        """Return a block's KV, in a buffer that has room for its file; None when it is not there.

        Raises:
            Corrupt: what was there is not the block.
            OSError: it could not be read this time; it stays.
        """
        path = self._path(key)
        view = memoryview(into)
        try:
            with open(path, "rb", buffering=0) as file:
                length = _fill(file, view)
                whole = not file.read(1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError as error:
            raise Corrupt(str(error)) from error
        kv = kv_of(view[:length], key.fingerprint, key.name) if whole else None
        if kv is None:
            self.remove(key)
            raise Corrupt(f"{path} is not the block that its name says")
        return kv

    def touch(self, key: Key) -> None:
        """Note that a block was used: another worker, or this one after a restart, will know."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def remove(self, key: Key) -> None:
        """Remove a block, unless somebody else did."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def scan(self) -> Iterator[Found]:
        """Yield all blocks, of whichever model; remove what workers that died left unfinished.

        Raises:
            OSError: something is there that could not be read this time.
        """
        for fingerprint in _folders(self._root):
            for shelf in _folders(fingerprint.path):
                for file in _entries(shelf.path):
                    found = _found(fingerprint.name, file)
                    if found is not None:
                        yield found

    def _path(self, key: Key) -> Path:
        name = key.name.hex()
        return self._root / key.fingerprint.hex() / name[:2] / name


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _fill(file: RawIOBase, view: memoryview) -> int:
    """Read until a buffer is full or a file ends; one call may give less than there is."""
    length = 0
    while length < len(view) and (count := file.readinto(view[length:])):
        length += count
    return length


def _folders(path: str | Path) -> list["os.DirEntry[str]"]:
    return [entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False)]


def _entries(path: str | Path) -> list["os.DirEntry[str]"]:
    """Return what is in a folder; nothing where there is none any more."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _found(fingerprint: str, file: "os.DirEntry[str]") -> Found | None:
    """Return what a file is; None for what is no block."""
    try:
        status = file.stat(follow_symlinks=False)
        if file.name.endswith(UNFINISHED):
            if status.st_mtime < time.time() - ABANDONED_SECONDS:
                with contextlib.suppress(OSError):
                    os.unlink(file.path)
            return None
        key = Key(bytes.fromhex(fingerprint), bytes.fromhex(file.name))
    except (FileNotFoundError, ValueError):  # it has gone, or is somebody else's
        return None
    if (len(key.fingerprint), len(key.name)) != (FINGERPRINT_BYTES, NAME_BYTES):
        return None
    return Found(key, disk_size(status.st_size), status.st_mtime)
