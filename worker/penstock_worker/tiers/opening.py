"""Opens an engine's tier from its settings."""

from pathlib import Path

from penstock_contract.step_cost import StepCost
from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine_config import TierConfig
from penstock_worker.tiers.block_file import OVERHEAD
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.tiers.folder import BlockFolder, disk_size
from penstock_worker.tiers.tier import Tier
from penstock_worker.transfer.pool_memory import block_memory


def open_tier(
    config: TierConfig,
    blocks: BlockPool,
    pool: KVPool,
    fingerprint: bytes,
    window: int,
    cost: StepCost | None,
) -> Tier:
    """Return a tier that works once it is started.

    Raises:
        ValueError: a setting makes no sense; the message names it.
    """
    if not blocks.caching:
        raise ValueError(
            "--kv-tier-disk needs --enable-prefix-caching: blocks are found by their names"
        )
    if pool.device.type != "cpu":
        raise ValueError("--kv-tier-disk is for workers on CPUs: leave it out on a GPU")
    memory = block_memory(pool)
    least = disk_size(memory.block_bytes + OVERHEAD)
    if config.capacity < least:
        raise ValueError(f"--kv-tier-disk-capacity: a block alone takes {least} bytes")
    try:
        folder = BlockFolder(Path(config.folder))
    except OSError as error:
        where = f"--kv-tier-disk {config.folder}"
        raise ValueError(f"{where}: cannot write there: {error.strerror}") from error
    disk = DiskTier(folder, fingerprint, block_bytes=memory.block_bytes, capacity=config.capacity)
    return Tier(blocks, memory, disk, window=window, cost=cost)
