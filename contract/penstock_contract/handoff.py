"""KV hand-off as HTTP sees it: one worker computes a prompt, another one goes on from its KV.

The fields are vLLM's (its NIXL connector), so that a router speaks to Penstock's and to vLLM's
workers alike; what Penstock adds begins with `penstock_`. Both requests carry the header
`x-penstock-handoff`, or the field is ignored: it makes a worker connect to an address.

    gateway → prefill worker    the client's body with max_tokens 1, stream false, and
                                kv_transfer_params: {"do_remote_decode": true, …}      (`PREFILL`)
    prefill worker → gateway    an answer with kv_transfer_params: {"do_remote_prefill": true, …},
                                or without, when it has leased no blocks
    gateway → decode worker     the client's body with that object, as it came
    gateway → prefill worker    DELETE /kv_leases/{remote_request_id}, when nobody will pull

How blocks travel between the workers is `penstock_worker.transfer.protocol`.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

FIELD: Final = "kv_transfer_params"
"""Of a request's and of an answer's body."""

LEASES_PATH: Final = "/kv_leases/"
"""Followed by a lease: DELETE gives it back. Answers 204, whether it was there or not."""

PORT: Final = 5600
"""Where workers serve their blocks; also vLLM's default for its NIXL connector."""

PREFILL: Final[dict[str, Any]] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_request_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""What a prefill request carries."""

Text = Annotated[str, Field(min_length=1, max_length=255)]
Count = Annotated[int, Field(ge=0, lt=2**32)]


class TransferParams(BaseModel):
    """The object in `kv_transfer_params`, in either direction."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    do_remote_decode: bool = False
    """Keep the prompt's blocks: another worker decodes."""
    do_remote_prefill: bool = False
    """Pull the prompt's blocks: another worker has computed them."""
    remote_engine_id: Text | None = None
    remote_request_id: Text | None = None
    """The lease: random; whoever knows it may pull, with the worker token if there is one."""
    remote_block_ids: Any = None
    """Of vLLM's interest: a lease of Penstock's knows its blocks."""
    remote_host: Text | None = None
    remote_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    remote_num_tokens: Count = 0
    """Prompt tokens whose KV is there, whole blocks."""
    remote_blocks_expiry_time: float | None = None
    """Unix seconds; for routers. Workers rely on no clock but their own."""
    tp_size: Count = 1
    penstock_epoch: Text | None = None
    """Of the engine that holds the blocks: a restarted one has none of them."""
    penstock_lease_seconds: Annotated[float, Field(gt=0.0, le=3600.0)] | None = None
    """How long the lease lasts from the answer on."""
    penstock_cached_tokens: Count = 0
    """Prompt tokens that the prefill worker had cached; for the usage of the final answer."""


class PullOutcome(StrEnum):
    """How a decode worker's pull ended; after all but the first two, what is missing is computed.

    Label of `penstock_worker_kv_pulls_total`.
    """

    COMPLETE = "complete"
    """Every block came."""
    CACHED = "cached"
    """It had every block already."""
    CANCELLED = "cancelled"
    """Its requests had gone."""
    UNUSABLE = "unusable"
    """What the request said of the blocks is not enough: they are not a Penstock worker's."""
    NO_ROOM = "no_room"
    """This worker had no room for them while the lease ran."""
    UNREACHABLE = "unreachable"
    """Nobody listens there."""
    STALE = "stale"
    """The other engine has restarted, or the lease is over."""
    INCOMPATIBLE = "incompatible"
    """Another model, type or layout, another version of the protocol, or another prompt."""
    STRANGER = "stranger"
    """The two workers do not know the same worker token."""
    LATE = "late"
    """Nothing came for too long, or not all of it while the lease ran."""
    LOST = "lost"
    """The connection ended first."""
    CORRUPT = "corrupt"
    """What came was not what had been sent."""


class LeaseOutcome(StrEnum):
    """How a prefill worker's lease ended; label of `penstock_worker_kv_leases_total`."""

    PULLED = "pulled"
    """Another worker has the blocks."""
    RELEASED = "released"
    """Somebody said that nobody will pull them."""
    EXPIRED = "expired"
    """Nobody said anything in time."""
    REFUSED = "refused"
    """There was none: others hold as many blocks as leases may."""
