"""Blocks of KV that are only as long in coming as real ones would be."""

from collections.abc import Callable

from penstock_worker.transfer.memory import Buffer


class SimulatedMemory:
    """Blocks without content.

    Args:
        seconds_per_block: that a block takes to arrive.
        sleep: passes seconds.
    """

    block_bytes = 8

    def __init__(self, seconds_per_block: float, sleep: Callable[[float], None]) -> None:
        self._seconds = seconds_per_block
        self._sleep = sleep

    def read(self, block: int) -> list[memoryview]:  # noqa: ARG002
        """See `BlockMemory.read`."""
        return [memoryview(bytes(self.block_bytes))]

    def write(self, block: int, data: Buffer) -> None:  # noqa: ARG002
        """See `BlockMemory.write`."""
        self._sleep(self._seconds)
