"""The fleet file: how the local runtime tells the gateway which workers exist.

In a cluster the same picture comes from watching pods. The file is replaced atomically (write,
then rename), so a reader sees the old fleet or the new one and nothing between.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from penstock_contract.api import Role
from penstock_contract.api.base import seconds
from penstock_contract.api.engine import EngineType, Task
from penstock_contract.api.inference import DisaggregationMode, Queue, RequestClass


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
    revision: str = ""
    """Rollout hash that the worker runs."""
    state: WorkerState = WorkerState.READY
    adapters: tuple[str, ...] | None = None
    """Names of the adapters that it has; None: all of its model's."""

    def has(self, adapter: str) -> bool:
        """Return whether it answers to an adapter; every worker does to the model itself."""
        return not adapter or self.adapters is None or adapter in self.adapters


class FleetCanary(BaseModel):
    """A revision on trial: it gets `weight` percent of the requests, all others the rest."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    revision: str
    weight: Annotated[int, Field(ge=0, le=100)]


class FleetClass(BaseModel):
    """A class of requests."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = ""
    priority: int = 0
    weight: Annotated[int, Field(ge=1)] = 1
    timeout: float | None = None
    """Seconds that a request may wait; None: the queue's."""


class FleetQueue(BaseModel):
    """How requests wait for a model whose workers are full."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    per_worker: Annotated[int, Field(ge=1)] = 256
    """Requests that a worker runs at once."""
    max_requests: Annotated[int, Field(ge=0)] = 0
    """Requests that may wait."""
    timeout: float = 0.0
    """Seconds that a request may wait while there are workers."""
    cold_start_timeout: float = 0.0
    """The same while there is none."""
    classes: tuple[FleetClass, ...] = ()
    default: FleetClass = FleetClass()
    """For requests that name no class."""

    def request_class(self, name: str) -> FleetClass:
        """Return the class of a name, or the default class."""
        if not self.classes:
            return self.default
        return next((found for found in self.classes if found.name == name), self.default)

    @classmethod
    def of(cls, queue: Queue, classes: Sequence[RequestClass], per_worker: int) -> "FleetQueue":
        """Return what a spec asks for."""
        known = {
            found.name: FleetClass(
                name=found.name,
                priority=found.priority,
                weight=found.weight,
                timeout=None if found.queue_timeout is None else seconds(found.queue_timeout),
            )
            for found in classes
        }
        default = next((found.name for found in classes if found.default), "")
        return cls(
            per_worker=per_worker,
            max_requests=queue.max_requests,
            timeout=seconds(queue.timeout),
            cold_start_timeout=seconds(queue.cold_start_timeout),
            classes=tuple(known.values()),
            default=known.get(default, FleetClass()),
        )


class FleetDisaggregation(BaseModel):
    """When a prompt is computed by a prefill worker."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: DisaggregationMode = DisaggregationMode.AUTO
    min_uncached_tokens: Annotated[int, Field(ge=0)] = 512


class FleetModel(BaseModel):
    """A served model name; it exists even while no worker is ready (then requests get 503)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    aliases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    """Names that stand for a LoRA adapter on the model."""
    deployment: str
    created: int = 0
    """Unix seconds, shown in /v1/models."""
    canary: FleetCanary | None = None
    """A revision on trial."""
    queue: FleetQueue | None = None
    """None: nothing waits."""
    policy: str = "PrefixAware"
    """How a worker is chosen: spec.routing.policy."""
    attempts: Annotated[int, Field(ge=1)] = 2
    """Workers tried before the first byte."""
    resume_streams: bool = True
    """Whether a broken stream goes on at another worker."""
    disaggregation: FleetDisaggregation = FleetDisaggregation()
    """Of use where there are prefill workers."""
    tpot: float | None = None
    """Seconds between two tokens, by spec.slo.tpot; None: nothing is asked for."""
    ttft: float | None = None
    """Seconds to the first token, by spec.slo.ttft; None: nothing is asked for."""
    task: Task = Task.AUTO
    """By spec.engine.task; Auto: its workers know what it is for."""
    engine: EngineType = EngineType.PENSTOCK
    """What its workers run."""
    parsers: tuple[str, ...] = ()
    """vLLM's that divide its answers into reasoning, tool calls and text: Engine.parsers."""


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


GATEWAY_WORKERS_PATH: Final = "/internal/workers"
"""Where a gateway tells what it has on its workers; for the operator, not for clients."""


class WorkerLoad(BaseModel):
    """What one gateway has on one worker, and what it saw of it since the gateway started."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: WorkerState
    in_flight: int = 0
    """Requests sent and not ended."""
    outstanding_tokens: int = 0
    """Prompt tokens of theirs that have no first token yet; estimated."""
    requests: int = 0
    """Ended requests."""
    failures: int = 0
    """Those that the worker failed: cut, refused, or answered with 5xx."""

    def added(self, other: "WorkerLoad") -> "WorkerLoad":
        """Return what two gateways have on it; it drains when both know that."""
        return WorkerLoad(
            state=other.state if self.state is WorkerState.DRAINING else self.state,
            in_flight=self.in_flight + other.in_flight,
            outstanding_tokens=self.outstanding_tokens + other.outstanding_tokens,
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
        )


def total_loads(parts: Iterable[Mapping[str, WorkerLoad]]) -> dict[str, WorkerLoad]:
    """Return what several gateways have on each worker, by FleetWorker.id."""
    total: dict[str, WorkerLoad] = {}
    for part in parts:
        for worker, load in part.items():
            known = total.get(worker)
            total[worker] = load if known is None else known.added(load)
    return total


class GatewayWorkers(BaseModel):
    """The answer to GATEWAY_WORKERS_PATH, by FleetWorker.id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workers: dict[str, WorkerLoad] = {}
