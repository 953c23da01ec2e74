"""Who is there to be measured: a deployment's gateways, pools and workers. Plain values."""

from dataclasses import dataclass

from penstock_contract.api import Role


@dataclass(frozen=True)
class PoolTopology:
    """One pool's workers."""

    name: str
    role: Role
    desired: int
    workers: tuple[str, ...] = ()
    """Targets that serve, draining ones included."""
    ready: int = 0
    starting: int = 0
    draining: int = 0


@dataclass(frozen=True)
class Topology:
    """One deployment."""

    model: str
    """Served name: the label of its metrics."""
    gateways: tuple[str, ...]
    """Targets."""
    pools: tuple[PoolTopology, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """All targets that serve."""
        return tuple(worker for pool in self.pools for worker in pool.workers)
