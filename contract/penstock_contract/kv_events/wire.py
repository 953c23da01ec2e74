"""The wire format of KV events, which is vLLM's (`vllm/distributed/kv_events.py`).

A ZMQ message has three frames: topic, u64 big-endian sequence number, and msgpack of

    [timestamp, [event, …], data_parallel_rank]

An event is a map in vLLM since 0.3x (`{"type": "BlockStored", "block_hashes": […], …}`) and a
positional array in older vLLM, SGLang and llm-d (`["BlockStored", […], …]`); later vLLM sends the
batch as a map too. `decode` reads all of these, `encode` writes either of the first two.

A replay request to the ROUTER socket is (empty, u64 sequence); the answers are (empty, topic,
sequence, batch) for every batch from there on that is still known, and at last (empty, empty,
END, empty). vLLM up to 0.11 leaves the topic out.

The topic is `kv@WORKER/EPOCH@MODEL`: llm-d's `kv@pod@model`, with the epoch in the pod's place.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

END: Final = (-1).to_bytes(8, "big", signed=True)
"""Sequence frame that ends a replay."""

MEDIUM: Final = "GPU"
"""The tier: the engine's own memory, whatever it is made of (vLLM says so on CPUs as well)."""

STORAGE: Final = "STORAGE"
"""A tier on a disk, in vLLM's words. Its blocks are told of by their hashes alone."""

BlockHash = bytes | int
"""Ours are 16 bytes (penstock_contract.blocks); others send 32 bytes or integers."""


class BlockStored(msgspec.Struct, frozen=True, tag=True):
    """Blocks became findable, one after the other behind their parent."""

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    """None where the first of them begins a prompt, and where it is not known."""
    token_ids: list[int]
    """Of all these blocks together; none where they are not known."""
    block_size: int
    lora_id: int | None = None
    medium: str | None = MEDIUM
    lora_name: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, tag=True):
    """Blocks were given away: their hashes name nothing any more."""

    block_hashes: list[BlockHash]
    medium: str | None = MEDIUM


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True):
    """Nothing is cached; also the first event of an epoch."""


Event = BlockStored | BlockRemoved | AllBlocksCleared


class Encoding(StrEnum):
    """How events are written inside a batch."""

    MAPS = "maps"
    ARRAYS = "arrays"


@dataclass(frozen=True)
class Batch:
    """What one message says. The timestamp is Unix seconds."""

    timestamp: float
    events: list[Event]
    data_parallel_rank: int | None = None


class NotKVEvents(ValueError):
    """A message that is not what vLLM's format allows."""


@dataclass(frozen=True)
class Topic:
    """Who speaks, since which start, of which model."""

    worker: str
    """Unique over time, such as a pod's uid; without `@` and `/`."""
    epoch: str
    model: str

    def encode(self) -> bytes:
        """Return the topic frame."""
        return f"kv@{self.worker}/{self.epoch}@{self.model}".encode()

    @classmethod
    def decode(cls, frame: bytes) -> "Topic":
        """Return what a topic frame says; a worker that knows no epochs has the empty one.

        Raises:
            NotKVEvents: it is another topic.
        """
        kind, _, rest = frame.decode(errors="replace").partition("@")
        who, separator, model = rest.partition("@")
        if kind != "kv" or not separator:
            raise NotKVEvents(f"topic {frame!r} is not kv@WORKER/EPOCH@MODEL")
        worker, _, epoch = who.partition("/")
        return cls(worker, epoch, model)


def encode(batch: Batch, encoding: Encoding) -> bytes:
    """Return the payload frame of a batch."""
    events: list[Any] = list(batch.events)
    if encoding is Encoding.ARRAYS:
        events = [[type(event).__name__, *msgspec.structs.astuple(event)] for event in events]
    return msgspec.msgpack.encode([batch.timestamp, events, batch.data_parallel_rank])


def decode(payload: bytes) -> Batch:
    """Return the batch in a payload frame, in whichever of the encodings it is.

    Raises:
        NotKVEvents: it is none of them.
    """
    try:
        found = msgspec.msgpack.decode(payload)
        parts = list(found.values()) if isinstance(found, dict) else found
        timestamp, events, rank = (*parts, None)[:3]
        return Batch(
            msgspec.convert(timestamp, float, strict=False),
            [msgspec.convert(_named(event), Event) for event in events],
            msgspec.convert(rank, int | None),
        )
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        raise NotKVEvents(f"not a batch of KV events: {error}") from error


_FIELDS: Final = {
    kind.__name__: kind.__struct_fields__ for kind in (BlockStored, BlockRemoved, AllBlocksCleared)
}


def _named(event: Any) -> dict[str, Any]:
    """Return an event as a map; further positions of an array are newer than this reader."""
    if isinstance(event, dict):
        return event
    kind, *values = event
    return {"type": kind, **dict(zip(_FIELDS[kind], values, strict=False))}
