"""The present fleet, and everything that follows its changes."""

import asyncio
import logging

from penstock_contract.fleet import Fleet
from penstock_gateway.endpoint_picker.picker import Picker
from penstock_gateway.fleet.directory import Present
from penstock_gateway.fleet.source import FleetSource
from penstock_gateway.relay.prober import Prober
from penstock_gateway.relay.profiler import Profiler

log = logging.getLogger("penstock.picker")


class Following:
    """Follows a source of the fleet for a picker.

    Args:
        source: tells of each change.
        present: the picker's directory.
        picker: what its requests share.
    """

    def __init__(self, source: FleetSource, present: Present, picker: Picker) -> None:
        self.known = asyncio.Event()
        """Set once there is a fleet."""
        self._source = source
        self._present = present
        self._picker = picker

    async def run(self) -> None:
        """Follow the fleet, and look after its broken workers, until cancelled."""
        picker = self._picker
        prober = Prober(
            picker.router,
            picker.pool,
            picker.quarantine,
            picker.directory,
            picker.paces.under_way,
            picker.metrics.ejected,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(prober.run())
            group.create_task(Profiler(picker.router, picker.pool, picker.directory).run())
            group.create_task(self._source.run(self._change))

    def _change(self, fleet: Fleet) -> None:
        """Take over a new snapshot; requests under way keep the worker that they have."""
        picker = self._picker
        self._present.change(fleet)
        picker.router.keep_only(worker.id for worker in fleet.workers)
        picker.pool.keep_only({worker.url for worker in fleet.workers})
        picker.metrics.fleet(fleet)
        picker.fleet_changed()
        self.known.set()
        log.info("fleet %d: %d workers", fleet.generation, len(fleet.workers))
