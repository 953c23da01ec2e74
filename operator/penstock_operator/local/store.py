"""Desired objects on disk, like a very small API server: one JSON file per object.

A file is replaced atomically, so a reader sees an object as it was or as it is, and
read-modify-write happens under a lock, so that no update is lost. A changed spec raises
`metadata.generation`; an unchanged object is not written at all.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

from penstock_contract.api import EnginePool, InferenceDeployment, Tenant
from penstock_contract.api.stored import as_stored
from penstock_operator.local.errors import UserError

Stored = TypeVar("Stored", InferenceDeployment, EnginePool, Tenant)


class Store:
    """The objects below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, obj: Stored, now: str) -> Stored:
        """Create or replace an object; return it as it is stored.

        Args:
            obj: its spec and labels count; generation and creation time are the store's.
            now: RFC 3339, the creation time of a new object.
        """
        with self._locked():
            try:
                before = self.get(type(obj), obj.metadata.name)
            except UserError:  # damaged: this is what mends it
                before = None
            return self._write(obj, before, now)

    def update(self, kind: type[Stored], name: str, change: Callable[[Stored], Stored]) -> Stored:
        """Replace an object by what `change` makes of it.

        Raises:
            KeyError: there is no such object.
        """
        with self._locked():
            found = self.get(kind, name)
            if found is None:
                raise KeyError(name)
            return self._write(change(found), found)

    def delete(self, kind: type[Stored], name: str) -> None:
        """Remove an object; fine when there is none."""
        with self._locked():
            self._path(kind, name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything."""
        with self._locked():
            for path in self._folder.glob("*/*.json"):
                path.unlink()

    def get(self, kind: type[Stored], name: str) -> Stored | None:
        """Return an object, or None.

        Raises:
            UserError: the file was edited by hand, and is no object any more.
        """
        path = self._path(kind, name)
        try:
            return as_stored(kind.model_validate, json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{path} is damaged: apply the manifest again, or remove the file ({error})"
            ) from None

    def list(self, kind: type[Stored]) -> list[Stored]:
        """Return all objects of a kind, by name.

        Raises:
            UserError: one of them is damaged.
        """
        return [found for name in self.names(kind) if (found := self.get(kind, name))]

    def readable(self, kind: type[Stored]) -> Iterator[Stored]:
        """Yield the objects of a kind that are not damaged, by name."""
        for name in self.names(kind):
            with suppress(UserError):
                if found := self.get(kind, name):
                    yield found

    def names(self, kind: type[Stored]) -> tuple[str, ...]:
        """Return the names of all objects of a kind, damaged ones, too."""
        return tuple(sorted(path.stem for path in (self._folder / kind.__name__).glob("*.json")))

    def version(self) -> frozenset[tuple[str, int, int]]:
        """Return a value that differs after every change; cheap enough to compare all the time."""
        return frozenset(
            (entry.path, stat.st_ino, stat.st_mtime_ns)
            for folder in self._folder.iterdir()
            if folder.is_dir()
            for entry in os.scandir(folder)
            if entry.name.endswith(".json") and (stat := _stat(entry))
        )

    def _path(self, kind: type[Stored], name: str) -> Path:
        return self._folder / kind.__name__ / f"{name}.json"

    def _write(self, obj: Stored, before: Stored | None, now: str | None = None) -> Stored:
        own: dict[str, Any] = {"generation": 1, "creation_timestamp": now}
        if before:
            own["generation"] = before.metadata.generation + (before.spec != obj.spec)
            own["creation_timestamp"] = before.metadata.creation_timestamp
        stored = obj.model_copy(update={"metadata": obj.metadata.model_copy(update=own)})
        if stored != before:
            write_json(self._path(type(obj), obj.metadata.name), stored.to_json())
        return stored

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_json(path: Path, value: Any) -> None:
    """Replace a file atomically by a value as JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_yaml(path: Path, documents: list[Any]) -> None:
    """Replace a file atomically by YAML documents."""
    write_text(path, yaml.safe_dump_all(documents, sort_keys=False))


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _stat(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None
