"""Two engines that hand KV over, driven step by step by a test."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from waiting import PATIENCE

from penstock_contract.handoff import TransferParams
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.block_pool import Counts
from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig, TransferConfig
from penstock_worker.messages import AddRequest, HandoffStats, Output, Source, Stats
from penstock_worker.transfer.handoff import Handoff

TOKENS = WorkerTokens(("the token of these workers",))


@dataclass
class Node:
    """An engine with its hand-off, and what it has given so far."""

    engine: Engine
    outputs: dict[str, list[Output]] = field(default_factory=dict)
    steps: list[Stats] = field(default_factory=list)
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def handoff(self) -> Handoff:
        assert self.engine.handoff is not None
        return self.engine.handoff

    @property
    def stats(self) -> HandoffStats:
        return self.handoff.stats()

    def add(self, message: AddRequest) -> None:
        assert self.engine.add(message) is None

    def step(self) -> None:
        """Do what is due now, as the engine's loop would."""
        self.engine.settle()
        self.engine.pool.check()
        if self.engine.busy:
            batch = self.engine.step()
            self.steps.append(batch.stats)
            for output in batch.outputs:
                self.outputs.setdefault(output.id, []).append(output)
            self.engine.pool.check()
        else:
            self.woken.wait(0.01)
            self.woken.clear()

    def finish(self, request_id: str) -> list[int]:
        """Step until a request has ended, and return its tokens."""
        self.until(lambda: any(o.finish_reason for o in self.outputs.get(request_id, [])))
        return [token for output in self.outputs[request_id] for token in output.tokens]

    def until(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never happened"
            self.step()

    def counts(self) -> Counts:
        """Return the pool's state once nothing is kept or awaited any more."""
        self.until(lambda: not self.engine.pool.counts().used)
        return self.engine.pool.counts()


def config(model: Path, **changes: Any) -> EngineConfig:
    """Return the settings of an engine that hands over."""
    base = EngineConfig(
        model=str(model),
        kernels="torch",
        kv_cache_bytes=8 << 20,
        threads=1,
        transfer=TransferConfig("127.0.0.1", 0, "127.0.0.1", 30.0, "test"),
    )
    return msgspec.structs.replace(base, **changes)


@contextlib.contextmanager
def node(model: Path, **changes: Any) -> Iterator[Node]:
    """Build an engine; others can pull from it until the end."""
    engine, _ = build_engine(config(model, **changes), TOKENS)
    found = Node(engine)
    engine.start(found.woken.set)
    try:
        yield found
    finally:
        found.handoff.close()


def source(kept: dict[str, Any], **changes: Any) -> Source:
    """Return what a decode worker's server makes of a prefill worker's answer."""
    told = TransferParams.model_validate(kept)
    found = Source(
        lease=told.remote_request_id or "",
        epoch=told.penstock_epoch or "",
        host=told.remote_host or "",
        port=told.remote_port or 0,
        seconds=told.penstock_lease_seconds or 0.0,
        tokens=told.remote_num_tokens,
        cached_tokens=told.penstock_cached_tokens,
    )
    return msgspec.structs.replace(found, **changes)
