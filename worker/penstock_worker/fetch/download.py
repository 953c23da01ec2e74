"""One file: resumed where it was broken off, verified on disk, and renamed only then."""

import errno
import hashlib
import os
import re
from pathlib import Path
from threading import Event
from typing import Protocol

import httpx

from penstock_worker.fetch.crc32c import Crc32c
from penstock_worker.fetch.remote import STORED_AS_IS, Digest, FetchError, Origin, RemoteFile
from penstock_worker.fetch.retry import Transient, refuse_transient, retry

PARTIAL = ".partial"


class Hash(Protocol):
    """What hashlib's objects do, as far as it is needed."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""
        ...


class Stopped(Exception):
    """Another file has failed."""


class Download:
    """Fetches files of one origin into one folder; may be called from several threads."""

    def __init__(self, origin: Origin, folder: Path, stop: Event) -> None:
        self._origin = origin
        self._folder = folder
        self._stop = stop

    def fetch(self, file: RemoteFile) -> None:
        """Bring a file into the folder; nothing happens when it is there.

        Raises:
            FetchError: it cannot be had, or is not what it should be.
            Stopped: somebody has set the event.
        """
        target = self._folder / file.name
        if target.exists():  # it got its name only after it was verified
            return
        partial = self._folder / (file.name + PARTIAL)
        partial.parent.mkdir(exist_ok=True)
        for _ in range(2):  # what is damaged on disk is fetched anew, once
            retry(lambda: self._resume(file, partial), self._wait, lambda: _size(partial))
            if matches(partial, file.digest):
                partial.rename(target)
                return
            partial.unlink()
        raise FetchError(
            f"{file.name} arrived damaged twice: its checksum is not the published one"
        )

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped

    def _resume(self, file: RemoteFile, partial: Path) -> None:
        start = _size(partial)
        if start == file.size and partial.exists():
            return
        headers = {"Accept-Encoding": "identity", **file.headers}
        if 0 < start < file.size:
            headers["Range"] = f"bytes={start}-"
        with self._origin.client.stream("GET", file.url, headers=headers) as response:
            refuse_transient(response)
            if response.status_code not in (200, 206):
                response.read()  # it may say why
                raise FetchError(f"{file.name}: {self._origin.explain(response)}")
            _check_content(response, file.name)
            if response.status_code == 206 and _first_byte(response) != start:
                partial.unlink(missing_ok=True)
                raise Transient(f"{file.name}: another range came than from byte {start}")
            self._write(response, partial, file.size)
        if _size(partial) < file.size:
            raise Transient(f"{file.name}: the connection ended early")

    def _write(self, response: httpx.Response, partial: Path, size: int) -> None:
        """Append what a server sends, or begin anew where it did not heed the range."""
        try:
            with partial.open("ab" if response.status_code == 206 else "wb") as out:
                for chunk in response.iter_raw():
                    if self._stop.is_set():
                        raise Stopped
                    if out.tell() + len(chunk) > size:
                        out.truncate(0)
                        raise Transient(f"{partial.stem}: more came than the {size} bytes listed")
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FetchError(f"no space left on the volume while writing {partial.stem}") from error


def _check_content(response: httpx.Response, name: str) -> None:
    """Refuse what was compressed on the way: bytes are taken as they come."""
    encoding = response.headers.get("content-encoding", "")
    if encoding.lower() not in STORED_AS_IS:
        raise FetchError(
            f"{name}: {response.url.host} sends it compressed ({encoding}), which was not asked for"
        )


def _first_byte(response: httpx.Response) -> int | None:
    """Return where the part that an answer holds begins."""
    found = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("content-range", ""))
    return int(found[1]) if found else None


def matches(path: Path, digest: Digest | None) -> bool:
    """Return whether a file on disk has a digest; True where none is known."""
    if digest is None:
        return True
    content = _hash(digest.algorithm, _size(path))
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            content.update(chunk)
    return content.hexdigest() == digest.value


def _hash(algorithm: str, size: int) -> Hash:
    """Return what hashes a file of a size."""
    if algorithm == "git":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if algorithm == "crc32c":
        return Crc32c()
    return hashlib.new(algorithm, usedforsecurity=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
