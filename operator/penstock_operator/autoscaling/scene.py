"""Who is there to be measured, and what was measured of them so far. Plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock_contract.api import Role
from penstock_operator.autoscaling.page import Page, Pair


@dataclass(frozen=True)
class PoolScene:
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
class Scene:
    """One deployment."""

    model: str
    """Served name: the label of its metrics."""
    gateways: tuple[str, ...]
    """Targets."""
    pools: tuple[PoolScene, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """All targets that serve."""
        return tuple(worker for pool in self.pools for worker in pool.workers)


@dataclass(frozen=True)
class Pages:
    """The two latest pages of every target."""

    pairs: Mapping[str, Pair] = field(default_factory=dict)

    def turned(self, found: Mapping[str, Page], known: frozenset[str]) -> "Pages":
        """Return the pages with what was just read; targets that are gone are forgotten."""
        pairs = {target: pair for target, pair in self.pairs.items() if target in known}
        for target, page in found.items():
            if target in known:
                pair = pairs.get(target)
                pairs[target] = pair.turned(page) if pair else Pair(page)
        return replace(self, pairs=pairs)
