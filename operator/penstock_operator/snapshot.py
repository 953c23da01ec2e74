"""What is seen of an InferenceDeployment at one moment, as plain values; `status` is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_contract.api.revision import CanaryStatus
from penstock_contract.api.status import AdapterStatus, LastScale
from penstock_contract.conditions import Reason
from penstock_operator.manifests import Unsupported
from penstock_operator.rollout import Phase


@dataclass(frozen=True)
class PoolSnapshot:
    """What is seen of one pool's workers."""

    name: str
    """As in `spec.pools`."""
    desired: int
    """Replicas that the pool's EnginePool asks for."""
    revision: str = ""
    """That workers are to have."""
    ready: int = 0
    """Workers that take requests and have generated a token, whatever their revision."""
    outdated: int = 0
    """Workers of another revision that still exist."""
    draining: int = 0
    """Workers that finish their requests and take no new ones."""
    unschedulable: str = ""
    """Why workers find no place, in the scheduler's words; empty: they do."""
    failure: str = ""
    """How workers of the pool keep ending; empty: they do not."""
    beside: str = ""
    """What is wrong with a container beside a worker, which may serve all the same."""
    awaited: str = ""
    """Which follower a worker waits for; empty: none."""
    phase: Phase | None = None
    """Of its rollout; None: not known."""
    rollout: str = ""
    """What is going on, in words."""


@dataclass(frozen=True)
class Obstacle:
    """Why an object of ours cannot be made, and what to do about it."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class ScalingReport:
    """What the autoscaler says about a deployment."""

    reason: Reason
    message: str = ""
    last: Mapping[str, LastScale] = field(default_factory=dict)
    """The last change of each pool's size, as far as it was made by this process."""


@dataclass(frozen=True)
class Snapshot:
    """What is seen of a deployment at one moment."""

    pools: tuple[PoolSnapshot, ...]
    router_ready: bool
    """A gateway answers."""
    url: str | None = None
    """Base URL of the OpenAI endpoint."""
    unsupported: Unsupported | None = None
    """What the spec asks for and this version does not build."""
    obstacle: Obstacle | None = None
    """Why an object of ours cannot be made: somebody else's is in the way, or it is invalid."""
    canary: CanaryStatus | None = None
    """The revision on trial."""
    model_missing: str = ""
    """Why the model cannot be found; empty: it can, as far as is known."""
    scaling: ScalingReport | None = None
    """What the autoscaler says; None: there is none for this deployment."""
    names_taken: str = ""
    """Which of its served names another deployment has; empty: it has them all."""
    adapters: tuple[AdapterStatus, ...] = ()
    """How far each adapter of the spec is."""
    nameless: bool = False
    """No name is left for its model, so that no client reaches it."""
