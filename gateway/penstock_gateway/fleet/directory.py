"""Looks up models and their workers in a fleet snapshot."""

from penstock_contract.fleet import Fleet, FleetModel, FleetWorker, WorkerState
from penstock_gateway.routing.roles import prefill_workers, whole_request_workers


class Directory:
    """A fleet snapshot, indexed by served name."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._models = {
            name: model
            for model in fleet.models
            for name in (model.name, *model.aliases, *model.adapters)
        }
        self._ready: dict[str, list[FleetWorker]] = {}
        for worker in fleet.workers:
            if worker.state is WorkerState.READY:
                self._ready.setdefault(worker.deployment, []).append(worker)
        self._prefill = {name: prefill_workers(workers) for name, workers in self._ready.items()}
        self._whole = {
            name: whole_request_workers(workers) for name, workers in self._ready.items()
        }
        self._workers = {worker.id: worker for worker in fleet.workers}

    @property
    def known(self) -> bool:
        """Whether this is a snapshot of a source, and not what a gateway starts with."""
        return self.fleet.generation > 0

    @property
    def any_ready(self) -> bool:
        """Whether at least one model could be served."""
        return any(self._ready.get(model.deployment) for model in self.fleet.models)

    @property
    def served(self) -> dict[str, FleetModel]:
        """All names, aliases and adapters that clients may use, with their models."""
        return dict(self._models)

    def model(self, name: str) -> FleetModel | None:
        """Return the model that a name, alias or adapter stands for."""
        return self._models.get(name)

    def ready(self, model: FleetModel) -> list[FleetWorker]:
        """Return the workers that take new requests for a model."""
        return self._ready.get(model.deployment, [])

    def for_prompts(self, model: FleetModel, adapter: str = "") -> list[FleetWorker]:
        """Return the workers that compute prompts for others; of an adapter, those that have it."""
        return _having(adapter, self._prefill.get(model.deployment, []))

    def for_whole_requests(self, model: FleetModel, adapter: str = "") -> list[FleetWorker]:
        """Return those for requests that are not split."""
        return _having(adapter, self._whole.get(model.deployment, []))

    def worker(self, worker_id: str) -> FleetWorker | None:
        """Return a worker by id."""
        return self._workers.get(worker_id)


def _having(adapter: str, workers: list[FleetWorker]) -> list[FleetWorker]:
    return [worker for worker in workers if worker.has(adapter)] if adapter else workers


class Present:
    """The directory of the present fleet, for those who outlive a snapshot."""

    def __init__(self) -> None:
        self._directory = Directory(Fleet())

    def change(self, fleet: Fleet) -> None:
        """Take over a new snapshot."""
        self._directory = Directory(fleet)

    def directory(self) -> Directory:
        """Return it."""
        return self._directory
