"""A whole model: beside its place until it is complete, then there in one step.

Pods that share a volume take turns by a lock on a file (the kernel frees it when its holder dies),
so a model is fetched once; whoever waited finds it complete. A download that was interrupted goes
on where it was, as long as the model is still the same version.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock_worker.fetch.download import PARTIAL, Download
from penstock_worker.fetch.remote import FetchError, Listing, Origin

MARKER = ".penstock.json"
"""In every complete folder: what it holds."""
CONNECTIONS = 4
"""Files at once; a single connection does not fill a fast network."""
TELL_EVERY = 10.0
"""Seconds between two words about progress."""
Say = Callable[[str], None]


def fetch(origin: Origin, into: Path, say: Say) -> None:
    """Bring a model into a folder, unless it is there.

    Args:
        origin: where it comes from; not asked at all when the folder is complete.
        into: the folder.
        say: prints a line.

    Raises:
        FetchError: it cannot be had, or the folder cannot take it.
    """
    if _complete(into):
        say(f"{into} is complete")
        return
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with _locked(into.with_name(f".{into.name}.lock"), say):
            if _complete(into):
                say(f"{into} is complete: another process has fetched it")
                return
            _fetch(origin, into, say)
    except OSError as error:
        raise FetchError(f"cannot write to {into}: {error.strerror or error}") from error


def remove(folder: Path) -> None:
    """Remove what was fetched into a folder, or has come of it so far; nothing may be there."""
    for found in (folder, *_partial(folder)):
        shutil.rmtree(found, ignore_errors=True)


def _partial(folder: Path) -> Iterator[Path]:
    return folder.parent.glob(f".{folder.name}.*{PARTIAL}")


def _fetch(origin: Origin, into: Path, say: Say) -> None:
    if into.exists():
        raise FetchError(f"{into} exists and is no complete download: remove it")
    listing = origin.listing()
    part = into.with_name(f".{into.name}.{listing.version[:16]}{PARTIAL}")
    for old in _partial(into):
        if old != part:
            shutil.rmtree(old)
    part.mkdir(exist_ok=True)
    _check_space(listing, part)
    say(f"fetching {len(listing.files)} files, {_gib(listing.size)}, version {listing.version}")
    _download(origin, listing, part, say)
    (part / MARKER).write_text(json.dumps(_manifest(listing), indent=1))
    for folder in {part, *((part / file.name).parent for file in listing.files)}:
        _sync(folder)
    part.rename(into)
    _sync(into.parent)
    say(f"{into} is complete")


def _download(origin: Origin, listing: Listing, part: Path, say: Say) -> None:
    stop = threading.Event()
    download = Download(origin, part, stop)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        running = [pool.submit(download.fetch, file) for file in listing.files]
        try:
            while running:
                done, pending = wait(running, TELL_EVERY, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                running = list(pending)
                if running:
                    say(f"{_gib(_stored(part))} of {_gib(listing.size)}")
        finally:
            stop.set()


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that fetches into {path.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _complete(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def _check_space(listing: Listing, part: Path) -> None:
    missing = listing.size - _stored(part)
    free = shutil.disk_usage(part).free
    if missing > free:
        raise FetchError(
            f"no space: {_gib(missing)} are missing and the volume of {part.parent} has "
            f"{_gib(free)} left; enlarge it, or name a larger claim in spec.model.cache"
        )


def _stored(part: Path) -> int:
    total = 0
    for entry in part.rglob("*"):
        with suppress(FileNotFoundError):  # it was renamed since
            total += entry.stat().st_size if entry.is_file() else 0
    return total


def _manifest(listing: Listing) -> dict[str, object]:
    return {
        "version": listing.version,
        "files": {file.name: file.size for file in listing.files},
    }


def _sync(folder: Path) -> None:
    """Make names in a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"
