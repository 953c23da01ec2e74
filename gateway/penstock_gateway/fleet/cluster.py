"""The fleet of a Kubernetes cluster: InferenceDeployments name the models, pods are the workers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from penstock_contract.fleet import Fleet, FleetWorker
from penstock_contract.labels import API_VERSION, DEPLOYMENT
from penstock_gateway.fleet import objects
from penstock_gateway.fleet.api_server import ApiServer, Collection
from penstock_gateway.fleet.objects import Claim, Conflict
from penstock_gateway.fleet.reflector import Reflector
from penstock_gateway.fleet.source import FleetHealth

log = logging.getLogger("penstock.gateway.fleet")

BURST_SECONDS = 0.05
"""Changes that come this close together become one snapshot."""


class ClusterFleet:
    """Watches a cluster; see `FleetSource`.

    Args:
        api: the API server.
        namespaces: where to look; empty means everywhere.
        health: told about conflicts of names, and whether the API server can be followed.
    """

    def __init__(
        self, api: ApiServer, namespaces: Sequence[str], health: Callable[[FleetHealth], None]
    ) -> None:
        self._health = health
        self._woken = asyncio.Event()
        self._last = Fleet()
        self._conflicts: tuple[Conflict, ...] = ()
        places: Sequence[str | None] = namespaces or [None]
        self._claims: list[Reflector[Claim]] = [
            Reflector(
                api,
                Collection(f"apis/{API_VERSION}", "inferencedeployments", namespace=place),
                objects.claim,
                self._woken.set,
            )
            for place in places
        ]
        self._workers: list[Reflector[FleetWorker]] = [
            Reflector(
                api,
                Collection("api/v1", "pods", DEPLOYMENT, namespace=place),
                objects.worker,
                self._woken.set,
            )
            for place in places
        ]
        self._reflectors: list[Reflector[Any]] = [*self._claims, *self._workers]

    async def run(self, changed: Callable[[Fleet], None]) -> None:
        """See `FleetSource.run`; the first snapshot comes when everything was seen."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())
            while True:
                await self._woken.wait()
                await asyncio.sleep(BURST_SECONDS)
                self._woken.clear()
                self._tell(changed)

    def _tell(self, changed: Callable[[Fleet], None]) -> None:
        if not all(reflector.listed for reflector in self._reflectors):
            return
        found, conflicts = objects.fleet(
            [claim for reflector in self._claims for claim in reflector.items.values()],
            [worker for reflector in self._workers for worker in reflector.items.values()],
            self._last.generation,
        )
        for conflict in conflicts:
            if conflict not in self._conflicts:
                log.warning("%s; the oldest keeps it", conflict)
        self._conflicts = conflicts
        stale = not all(reflector.current for reflector in self._reflectors)
        self._health(FleetHealth(stale, len({conflict.name for conflict in conflicts})))
        if found != self._last or not self._last.generation:
            self._last = found.model_copy(update={"generation": found.generation + 1})
            changed(self._last)
