"""An engine with a disk tier, around a runner that notices every token that is not its own."""

import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from memory_runner import MemoryRunner, position
from waiting import PATIENCE

from penstock_contract.step_cost import StepCost
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.lora.shelf import Shelf
from penstock_worker.messages import AddRequest, Output, TierStats
from penstock_worker.request import Request
from penstock_worker.speculative.proposer import Proposer
from penstock_worker.tiers.disk import DiskTier
from penstock_worker.tiers.folder import BlockFolder
from penstock_worker.tiers.tier import Tier
from penstock_worker.transfer.memory import Buffer

BLOCK = 4


class SlotMemory:
    """The slots of a `MemoryRunner` as the bytes of blocks."""

    block_bytes = BLOCK * 4

    def __init__(self, slots: dict[tuple[int, int], int]) -> None:
        self._slots = slots

    def read(self, block: int) -> list[memoryview]:
        tokens = array("i", [self._slots.get((block, offset), -1) for offset in range(BLOCK)])
        return [memoryview(tokens.tobytes())]

    def write(self, block: int, data: Buffer) -> None:
        for offset, token in enumerate(array("i", bytes(data))):
            self._slots[block, offset] = token


class Tiered:
    """An engine, its tier, and what it has given so far."""

    def __init__(
        self,
        folder: Path,
        *,
        blocks: int = 32,
        capacity: int = 1 << 20,
        window: int = 0,
        cost: StepCost | None = None,
        fingerprint: bytes = b"f" * 32,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[Sequence[int], Request], int] = position,
        proposer: Proposer | None = None,
        adapters: Collection[str] = (),
    ) -> None:
        self.runner = MemoryRunner(BLOCK, 64, draw, window)
        self.pool = BlockPool(blocks, BLOCK, log=CacheLog(BLOCK))
        self.engine = Engine(
            self.runner,
            self.pool,
            vocab_size=10_000,
            max_model_len=blocks * BLOCK,
            max_num_seqs=4,
            max_num_batched_tokens=64,
            proposer=proposer,
            adapters=Shelf.of(adapters),
            window=window,
            clock=clock,
        )
        memory = SlotMemory(self.runner.slots)
        self.disk = DiskTier(
            BlockFolder(folder), fingerprint, block_bytes=memory.block_bytes, capacity=capacity
        )
        self.tier = Tier(self.pool, memory, self.disk, window=window, cost=cost, clock=clock)
        self.engine.use(self.tier)
        self.outputs: dict[str, list[Output]] = {}
        self._woken = threading.Event()

    def __enter__(self) -> "Tiered":
        self.engine.start(self._woken.set)
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    @property
    def stats(self) -> TierStats:
        return self.tier.stats()

    def add(self, name: str, prompt: list[int], tokens: int = 2, **options: Any) -> None:
        assert self.engine.add(AddRequest(name, prompt, tokens, **options)) is None

    def step(self) -> None:
        """Do what is due, as the engine's loop would."""
        self.engine.settle()
        self.pool.check()
        if self.engine.busy:
            for output in self.engine.step().outputs:
                self.outputs.setdefault(output.id, []).append(output)
            self.pool.check()
        else:
            self._woken.wait(0.01)
            self._woken.clear()

    def ask(self, name: str, prompt: list[int], tokens: int = 2, **options: Any) -> Output:
        """Return the first output of a request, after it has ended."""
        self.add(name, prompt, tokens, **options)
        self.until(lambda: bool(self.outputs.get(name, [])) and self.ended(name))
        drawn = [token for output in self.outputs[name] for token in output.tokens]
        assert drawn == list(range(len(prompt), len(prompt) + tokens))
        return self.outputs[name][0]

    def ended(self, name: str) -> bool:
        return any(output.finish_reason for output in self.outputs.get(name, []))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            self.step()

    def written(self) -> None:
        """Wait until nothing waits to be written."""
        self.until(lambda: not self.disk.pending)


def files(folder: Path) -> Iterator[Path]:
    """Yield the files of blocks."""
    return (path for path in folder.rglob("*") if path.is_file())
