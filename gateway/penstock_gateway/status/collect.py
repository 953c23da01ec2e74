"""Takes the status page's values from the running gateway."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import groupby
from typing import Final

from penstock_contract.fleet import FleetModel, FleetWorker, WorkerState
from penstock_gateway.relay.decisions import Decision
from penstock_gateway.relay.relay import Relay
from penstock_gateway.relay.waits import waits
from penstock_gateway.status.snapshot import (
    DecisionRow,
    ModelRow,
    PoolRow,
    QueueRow,
    Status,
    WaitRow,
    WorkerRow,
)

SHOWN: Final = 50
"""Decisions on the page; the share of hits is over all that are remembered."""


def collect(relay: Relay) -> Status:
    """Return what there is to tell now."""
    directory, tenancy = relay.directory(), relay.tenancy
    fleet, workers = directory.fleet, _workers(relay)
    return Status(
        version=version("penstock"),
        generation=fleet.generation,
        tenants=None if tenancy.is_open else len(tenancy.tenants),
        models=tuple(_model(relay, model, workers) for model in fleet.models),
        pools=tuple(_pools(workers)),
        queues=tuple(_queues(relay, fleet.models)),
        waits=tuple(_waits(relay)),
        workers=tuple(workers),
        decisions=tuple(_decisions(relay))[:SHOWN],
    )


def _workers(relay: Relay) -> list[WorkerRow]:
    fleet = relay.directory().fleet
    rows = [_worker(relay, worker) for worker in fleet.workers]
    return sorted(rows, key=lambda row: (row.deployment, row.pool, row.id))


def _worker(relay: Relay, worker: FleetWorker) -> WorkerRow:
    tally = relay.router.tally(worker.id)
    return WorkerRow(
        worker.id,
        worker.deployment,
        worker.pool,
        worker.role.value,
        worker.revision,
        worker.state.value,
        tally.in_flight,
        tally.outstanding_tokens,
        tally.requests,
        tally.failures,
        tally.prompt_token,
        tally.prompt_error,
    )


def _model(relay: Relay, model: FleetModel, workers: Iterable[WorkerRow]) -> ModelRow:
    own = [row for row in workers if row.deployment == model.deployment]
    canary = model.canary
    return ModelRow(
        model.name,
        (*model.aliases, *model.adapters),
        model.deployment,
        sum(row.state == WorkerState.READY.value for row in own),
        len(own),
        sum(row.in_flight for row in own),
        relay.gates.waiting(model.deployment),
        _hits([found for found in relay.decisions if found.model == model.name]),
        f"{canary.revision}: {canary.weight} %" if canary else "",
    )


def _hits(decisions: Iterable[Decision]) -> float | None:
    chosen = [decision.choice for decision in decisions]
    matched = sum(choice.matched for choice in chosen)
    total = matched + sum(choice.uncached for choice in chosen)
    return matched / total if total else None


def _pools(workers: Iterable[WorkerRow]) -> Iterator[PoolRow]:
    for (deployment, pool, role), found in groupby(
        workers, key=lambda row: (row.deployment, row.pool, row.role)
    ):
        own = list(found)
        ready = sum(row.state == WorkerState.READY.value for row in own)
        yield PoolRow(deployment, pool, role, ready, len(own), sum(row.in_flight for row in own))


def _queues(relay: Relay, models: Iterable[FleetModel]) -> Iterator[QueueRow]:
    for model in models:
        for share in relay.gates.shares(model.deployment):
            yield QueueRow(model.name, share.name or "default", share.priority, share.waiting)


def _waits(relay: Relay) -> Iterator[WaitRow]:
    for found in waits(relay):
        reason = found.reason.value
        yield WaitRow(found.model, found.workers, found.count, reason, found.seconds)


def _decisions(relay: Relay) -> Iterator[DecisionRow]:
    now = relay.clock()
    for found in relay.decisions:
        choice = found.choice
        yield DecisionRow(
            now - found.at,
            found.request,
            found.model,
            choice.id,
            found.attempt,
            choice.matched,
            choice.uncached,
            choice.ttft,
            f"{choice.reason} {found.waited}".rstrip(),
        )
