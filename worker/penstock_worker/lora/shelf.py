"""The adapters that an engine's requests may name, and how they come and go while it computes.

Everything here runs on the engine's thread, but for `_read`: reading, checking and packing take
seconds, in which steps go on. What is ready is taken over between two steps. An adapter that was
unloaded, or replaced under its name, is kept until the last request that began with it has ended.
"""

import queue
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from penstock_worker.lora.config import UnsupportedAdapter
from penstock_worker.messages import AdapterChanged, LoadAdapter


@dataclass(frozen=True)
class Version:
    """What stands under an adapter's name now."""

    name: str
    key: str
    """Of its matrices: no other adapter of this engine ever has it."""
    digest: bytes = b""
    """Of its files: part of the names of its KV blocks."""


class AdapterHost(Protocol):
    """A model that adapters can be given to."""

    def prepare(self, adapter: Any) -> Any:
        """Return an adapter in the form that `add` takes; on any thread.

        Raises:
            MemoryError: it does not fit.
        """

    def add(self, name: str, prepared: Any) -> None:
        """Let sequences name it; between two steps."""

    def drop(self, name: str) -> None:
        """Forget it; between two steps, and no sequence names it any more."""


Read = Callable[[str, Path], tuple[Any, bytes]]
"""Returns what an AdapterHost prepared of the adapter (name, folder), and the digest of its files.

Raises UnsupportedAdapter or MemoryError.
"""


class Shelf:
    """Adapters by name.

    Args:
        versions: those that the model was loaded with, each under its name as key.
        host: takes more of them; None: there are no more.
        read: makes them of files.
        most: adapters at a time; 0: none is loaded at run time.
    """

    def __init__(
        self,
        versions: Iterable[Version] = (),
        host: AdapterHost | None = None,
        read: Read | None = None,
        most: int = 0,
    ) -> None:
        self._named = {version.name: version for version in versions}
        self._host = host
        self._read_adapter = read
        self._most = most
        self._wanted: queue.SimpleQueue[LoadAdapter] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[LoadAdapter, Any, bytes, str]] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._wake: Callable[[], None] = lambda: None
        self._count = 0
        self._retired: list[str] = []

    @classmethod
    def of(cls, names: Iterable[str]) -> "Shelf":
        """Return one with adapters that stay as they are."""
        return cls([Version(name, name) for name in names])

    def get(self, name: str) -> Version | None:
        """Return what stands under a name."""
        return self._named.get(name)

    def start(self, wake: Callable[[], None]) -> None:
        """Have `wake` called from another thread when `settle` has work."""
        self._wake = wake

    def load(self, message: LoadAdapter) -> None:
        """Begin to load an adapter; `settle` tells how it went."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="adapters", daemon=True)
            self._reader.start()
        self._wanted.put(message)

    def unload(self, name: str) -> None:
        """Let no new request name an adapter; those that do have it until they end."""
        version = self._named.pop(name, None)
        if version is not None:
            self._retired.append(version.key)

    def settle(self, in_use: Callable[[], Collection[str]]) -> list[AdapterChanged]:
        """Take over what was read, forget what nobody needs any more; return what was loaded.

        Args:
            in_use: returns the keys that requests have.
        """
        changed: list[AdapterChanged] = []
        while not self._done.empty():
            message, prepared, digest, problem = self._done.get()
            problem = problem or self._take(message, prepared, digest)
            changed.append(AdapterChanged(message.id, problem))
        if self._retired and self._host is not None:
            used = in_use()
            for key in [key for key in self._retired if key not in used]:
                self._host.drop(key)
                self._retired.remove(key)
        return changed

    def _take(self, message: LoadAdapter, prepared: Any, digest: bytes) -> str:
        """Let requests name an adapter; return why they cannot, or nothing."""
        if message.name not in self._named and len(self._named) >= self._most:
            return (
                f"{len(self._named)} adapters are loaded, and --max-adapters is {self._most}: "
                "unload one, or raise it"
            )
        self._count += 1
        version = Version(message.name, f"{self._count}\n{message.name}", digest)
        try:
            assert self._host is not None  # noqa: S101 - `_read` had it
            self._host.add(version.key, prepared)
        except MemoryError as error:
            return str(error)
        self.unload(message.name)
        self._named[message.name] = version
        return ""

    def _read(self) -> None:
        while True:
            message = self._wanted.get()
            prepared, digest, problem = None, b"", ""
            try:
                if self._read_adapter is None or self._host is None or not self._most:
                    problem = "adapters are not loaded at run time here: start with --max-adapters"
                else:
                    prepared, digest = self._read_adapter(message.name, Path(message.folder))
            except (UnsupportedAdapter, MemoryError, OSError) as error:
                problem = str(error)
            except Exception as error:
                # Whatever is wrong with the files of one adapter, the engine goes on.
                problem = f"{type(error).__name__}: {error}"
            self._done.put((message, prepared, digest, problem))
            self._wake()
