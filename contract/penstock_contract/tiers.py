"""KV-cache tiers below an engine's own memory, as metrics and events tell of them."""

from enum import StrEnum


class Medium(StrEnum):
    """What a tier is made of; in specs, and label of its metrics."""

    DISK = "Disk"
    """Files in a folder."""


class LoadOutcome(StrEnum):
    """What became of a prompt whose blocks a tier had; label of `penstock_worker_kv_tier_loads`."""

    COMPLETE = "complete"
    """All came."""
    SHORT = "short"
    """Some did not: they had gone, or were damaged. What is missing is computed."""
    LATE = "late"
    """Nothing came for too long; the disk hangs. All is computed."""
    CANCELLED = "cancelled"
    """The request had gone first."""
    SLOWER = "slower"
    """Computing was predicted to take less time."""


class Skipped(StrEnum):
    """Why a block that left the prefix cache was not kept; label of
    `penstock_worker_kv_tier_skipped_blocks`."""

    DECLINED = "declined"
    """The tier was full, and nobody had asked for the block twice."""
    DROPPED = "dropped"
    """The disk did not keep up."""
    FAILED = "failed"
    """The disk refused, now or a short time ago."""
