"""What all requests of a picker share, and how one of them gets its workers."""

import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import (
    FleetClass,
    FleetModel,
    FleetQueue,
    FleetWorker,
    GatewayWorkers,
)
from penstock_contract.tasks import refuse_other_task
from penstock_contract.worker_token import WorkerTokens
from penstock_gateway.endpoint_picker.doubts import Doubts
from penstock_gateway.endpoint_picker.endpoints import among
from penstock_gateway.endpoint_picker.paces import Paces
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.relay.bodies import Bodies
from penstock_gateway.relay.connection_pool import ConnectionPool
from penstock_gateway.relay.gate import Gates
from penstock_gateway.relay.hold import Asked, Hold
from penstock_gateway.relay.no_worker import nobody_ready
from penstock_gateway.relay.permit import Permit
from penstock_gateway.relay.prompt import routed_prompt
from penstock_gateway.relay.request import ParsedRequest
from penstock_gateway.routing.canary import attempts, preferred, session_key
from penstock_gateway.routing.loads import loads_of
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.quarantine import Quarantine
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt
from penstock_gateway.tenants.tenant import ANYONE
from penstock_gateway.tenants.tenant_request import model_not_found

_NO_QUEUE: Final = FleetQueue()


def request_class(model: FleetModel, wanted: str) -> FleetClass:
    """Return the class of a request that asks for one; empty: it does not."""
    return ANYONE.request_class(model.queue or _NO_QUEUE, wanted)


@dataclass(frozen=True)
class PickerSettings:
    """What an operator of the picker may choose."""

    max_body: int
    """Bytes; larger bodies are refused."""
    deployment: str = ""
    """InferenceDeployment whose models are served; empty: all."""
    endpoints: int = 1
    """That are named for a request: the best, and those to try after it."""
    tokens: WorkerTokens = field(default_factory=WorkerTokens)
    """Shown to workers."""


@dataclass
class Picker:
    """All that the requests of a picker share."""

    settings: PickerSettings
    metrics: GatewayMetrics
    router: Router
    pool: ConnectionPool
    directory: Callable[[], Directory]
    """Returns the present fleet."""
    bodies: Bodies
    clock: Callable[[], float] = field(default=time.monotonic)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def __post_init__(self) -> None:
        self.hold = Hold(self.router, self.directory, self.clock)
        self.gates = Gates(
            self.capacity, self.clock,
            wants_prompt=self.hold.wants_prompt, prompt_seconds=self.hold.prompt_seconds,
        )  # fmt: skip
        self.paces = Paces(self.router.streamed)
        self.doubts = Doubts(self.router, self.pool, self.directory, self.clock)

    @property
    def models(self) -> dict[str, FleetModel]:
        """All names that clients may use, with their models."""
        only = self.settings.deployment
        served = self.directory().served
        return {name: one for name, one in served.items() if only in ("", one.deployment)}

    def model(self, name: str) -> FleetModel:
        """Return the model that a request names.

        Raises:
            ApiError: there is none, or nobody who serves it.
        """
        directory = self.directory()
        found = directory.model(name)
        if found is None or self.settings.deployment not in ("", found.deployment):
            raise model_not_found(name) if directory.known else nobody_ready(name)
        if found.queue is None and not directory.ready(found):
            raise nobody_ready(name)
        return found

    def prompt(self, model: FleetModel, parsed: ParsedRequest, path: str, session: str) -> Prompt:
        """Return what routing knows of a request.

        Raises:
            ApiError: the model is for something else.
        """
        if model.task is not Task.AUTO:
            refuse_other_task(parsed.model, model.task, path)
        return routed_prompt(parsed, model, ANYONE.salt, session, path)

    def offer(
        self, model: FleetModel, prompt: Prompt, content: bytes, held: int, found: FleetClass
    ) -> Permit:
        """Return a permit for a request; release it when the request is over.

        Args:
            model: that is asked for.
            prompt: what routing knows of the request.
            content: what stands for the prompt where it has no prefixes.
            held: bytes that are kept while it waits.
            found: its class.

        Raises:
            ApiError: too many wait already.
        """
        destination = self.hold.destination(model, prompt, content, splits=False)
        try:
            return self.gates.offer(model, found, Asked(prompt.size, held, destination))
        except ApiError as error:
            raise self.shed(model, error) from error

    def shed(self, model: FleetModel, error: ApiError) -> ApiError:
        """Return a refusal for want of room as the protocol has it: 503 only without a worker."""
        if error.code is not ErrorCode.NO_CAPACITY or not self.workers(model):
            return error
        code = ErrorCode.RATE_LIMIT_EXCEEDED
        return ApiError(code, error.message, retry_after=error.retry_after)

    def choices(
        self, model: FleetModel, prompt: Prompt, content: bytes, subset: frozenset[str] | None
    ) -> list[tuple[Choice, FleetWorker]]:
        """Return the workers to try in turn, as the gateway would try them.

        Args:
            model: that is asked for.
            prompt: what routing knows of the request.
            content: what stands for the prompt where it has no prefixes.
            subset: endpoints that may be chosen; None: all.

        Raises:
            ApiError: there is none.
        """
        workers = among(self.workers(model), subset)
        if not workers:
            raise nobody_ready(model.name)
        by_id = {worker.id: worker for worker in workers}
        most = self.settings.endpoints
        if model.canary is None:
            found = self._ranked(model, prompt, workers, None, most)[:most]
        else:
            session = session_key(prompt.session, prompt.keys, content)
            own = preferred(workers, model.canary, session)
            ranking = self._ranked(model, prompt, workers, own, sys.maxsize)
            revision = model.canary.revision
            trial = frozenset(worker.id for worker in workers if worker.revision == revision)
            found = attempts(ranking, trial, most)
        return [(choice, by_id[choice.id]) for choice in found]

    def workers(self, model: FleetModel) -> list[FleetWorker]:
        """Return those that take requests for a model: no prefill worker, if there are others."""
        return self.directory().for_whole_requests(model)

    def capacity(self, model: FleetModel) -> int:
        """Return how many requests the ready workers of a model can run at once."""
        count = len(self.workers(model))
        return count * model.queue.per_worker if model.queue else sys.maxsize

    def fleet_changed(self) -> None:
        """There may be room where there was none."""
        for model in self.directory().fleet.models:
            self.gates.advance(model)

    def loads(self) -> GatewayWorkers:
        """Return what this picker has on each worker, for the operator."""
        return loads_of(self.directory().fleet, self.router)

    def _ranked(
        self,
        model: FleetModel,
        prompt: Prompt,
        workers: Sequence[FleetWorker],
        own: frozenset[str] | None,
        most: int,
    ) -> list[Choice]:
        return self.router.rank(
            workers,
            prompt,
            tie=random.random(),
            now=self.clock(),
            policy=model.policy,
            preferred=own,
            most=most,
        )
