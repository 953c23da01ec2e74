"""The fleet file: how the local runtime tells the gateway which workers exist.

In a cluster the same picture comes from watching pods. The file is replaced atomically (write,
then rename), so a reader sees the old fleet or the new one and nothing between.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from penstock_contract.api import Role


class WorkerState(StrEnum):
    """Whether a worker takes new requests. Workers that are not ready are not listed."""

    READY = "Ready"
    DRAINING = "Draining"


class FleetWorker(BaseModel):
    """One worker that answers HTTP."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    """Unique over the fleet's life: a restarted worker gets a new id."""
    url: str
    """Base URL, e.g. `http://127.0.0.1:40123`."""
    deployment: str
    pool: str
    role: Role
    state: WorkerState = WorkerState.READY


class FleetModel(BaseModel):
    """A served model name; it exists even while no worker is ready (then requests get 503)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    aliases: tuple[str, ...] = ()
    deployment: str
    created: int = 0
    """Unix seconds, shown in /v1/models."""


class Fleet(BaseModel):
    """An immutable snapshot of models and workers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    generation: Annotated[int, Field(ge=0)] = 0
    """Grows with every write."""
    models: tuple[FleetModel, ...] = ()
    workers: tuple[FleetWorker, ...] = ()

    def write(self, path: Path) -> None:
        """Replace the file at `path` atomically."""
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(self.model_dump_json(indent=2))
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Fleet":
        """Return the fleet in the file at `path`.

        Raises:
            OSError: the file cannot be read.
            pydantic.ValidationError: it is not a fleet.
        """
        return cls.model_validate_json(path.read_text())
