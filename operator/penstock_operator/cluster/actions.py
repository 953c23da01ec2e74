"""What the operator may do to the cluster; every action says why."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock_contract.adapters import WantedAdapters
from penstock_operator.manifests import Object


@dataclass(frozen=True)
class Create:
    """Create an object that is not there."""

    body: Object
    reason: str


@dataclass(frozen=True)
class Apply:
    """Make an object's fields what they should be (server-side apply)."""

    body: Object
    reason: str
    new: bool = False
    """None was seen: what somebody else has under this name is left alone."""


@dataclass(frozen=True)
class Merge:
    """Change single fields of exactly the object that was read."""

    kind: str
    name: str
    patch: Object
    """With the resourceVersion that it was decided on."""
    reason: str


@dataclass(frozen=True)
class Mark:
    """Tell a worker, its gateways and its ReplicaSet that it drains, or that it does not."""

    pod: str
    address: str
    draining: bool
    patch: Object
    reason: str


@dataclass(frozen=True)
class Delete:
    """Delete exactly the object that was read."""

    kind: str
    name: str
    uid: str
    version: str
    reason: str


@dataclass(frozen=True)
class WriteStatus:
    """Write a status."""

    kind: str
    name: str
    status: Object


@dataclass(frozen=True)
class RecordEvent:
    """Tell people of something, as an Event on the InferenceDeployment."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Agent:
    """Who brings a worker its adapters, and what it is to be told."""

    address: str
    wanted: WantedAdapters


Action = Create | Apply | Merge | Mark | Delete | WriteStatus | RecordEvent


@dataclass(frozen=True)
class Decision:
    """What to do now, in this order, and when to look again even if nothing happens."""

    actions: tuple[Action, ...] = ()
    again_in: float | None = None
    drains: bool = field(default=False)
    """Whether the gateways' view matters now."""
    agents: Mapping[str, Agent] = field(default_factory=dict)
    """What agents are to be told, by pod uid."""
