"""The engine's side of the hand-off: which blocks are kept for others, and which are awaited.

Everything here runs on the engine's thread. What takes time has threads of its own (`Holder`,
`Pull`); they report through a queue and wake the engine, which then calls `settle`.

A pull puts blocks into the prefix cache, under the names that this engine gave them itself, and
no more than that: the request that wanted them then finds them like any other prefix. Whatever
did not come is computed, by the same path as ever.
"""

import queue
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from penstock_contract.handoff import LeaseOutcome, PullOutcome, TransferParams
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.block_pool import BlockPool
from penstock_worker.messages import HandoffStats, Source
from penstock_worker.request import Request
from penstock_worker.transfer.holder import Holder
from penstock_worker.transfer.leases import Leases
from penstock_worker.transfer.memory import BlockMemory
from penstock_worker.transfer.pull import Pull, release_soon

SHARE = 0.5
"""Of the pool, that leases may keep at most; and, again, that pulls may fill at a time."""
MAX_PULLS = 64


@dataclass(frozen=True)
class Identity:
    """Whose blocks these are, and what they are."""

    engine_id: str
    """The worker's."""
    epoch: str
    fingerprint: bytes
    host: str
    """Where other workers reach this one; the port is the listener's."""


@dataclass(eq=False)
class _Wait:
    """A request, until its KV is there or will not come."""

    request: Request
    source: Source
    began: float
    deadline: float
    prefix: list[int] = field(default_factory=list)
    """Blocks in front of the pulled ones, held meanwhile."""
    pull: Pull | None = None
    gone: bool = False
    """Nobody waits any more, but the pull still writes."""


class Handoff:
    """Leases and pulls of one engine.

    Args:
        pool: the engine's, with caching.
        memory: its blocks' bytes.
        identity: of this engine.
        listener: a bound socket, where others pull; the hand-off's own from now on.
        lease_seconds: how long blocks are kept.
        tokens: that prove workers to each other.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        pool: BlockPool,
        memory: BlockMemory,
        identity: Identity,
        listener: socket.socket,
        lease_seconds: float,
        tokens: WorkerTokens | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.leases = Leases(int(pool.num_blocks * SHARE))
        self._pool = pool
        self._memory = memory
        self._identity = identity
        self._port: int = listener.getsockname()[1]
        self._lease_seconds = lease_seconds
        self._tokens = tokens or WorkerTokens()
        self._clock = clock
        self._waits: dict[str, _Wait] = {}
        self._room = int(pool.num_blocks * SHARE)
        self._pulls = 0
        self._done: queue.SimpleQueue[tuple[_Wait, Pull]] = queue.SimpleQueue()
        self._outcomes: Counter[str] = Counter()
        self._pulled_bytes = 0
        self._pull_seconds = 0.0
        self._wake: Callable[[], None] = lambda: None
        self._holder = Holder(
            listener,
            self.leases,
            memory,
            epoch=identity.epoch,
            fingerprint=identity.fingerprint,
            tokens=self._tokens,
            wake=lambda: self._wake(),
            clock=clock,
        )

    def start(self, wake: Callable[[], None]) -> None:
        """Let others pull; `wake` is called from other threads when `settle` has work."""
        self._wake = wake
        self._holder.start()

    def close(self) -> None:
        """Let nobody pull any more."""
        self._holder.close()

    def keep(self, request: Request) -> dict[str, Any] | None:
        """Lease the blocks of a computed prompt; return what to tell, None when there is nothing.

        At least one token is left for the other worker to compute: it draws from what that gives.
        """
        size = self._pool.block_size
        count = (request.prompt_length - 1) // size
        blocks, names = request.blocks[:count], request.full_block_names(size, count)
        deadline = self._clock() + self._lease_seconds
        lease = self.leases.grant(blocks, names, deadline) if count else None
        if lease is None:
            return None
        self._pool.hold(blocks)
        return TransferParams(
            do_remote_prefill=True,
            remote_engine_id=self._identity.engine_id,
            remote_request_id=lease.id,
            remote_block_ids=blocks,
            remote_host=self._identity.host,
            remote_port=self._port,
            remote_num_tokens=count * size,
            remote_blocks_expiry_time=time.time() + self._lease_seconds,
            penstock_epoch=self._identity.epoch,
            penstock_lease_seconds=self._lease_seconds,
            penstock_cached_tokens=request.cached_tokens,
        ).model_dump()

    def release(self, lease_ids: Iterable[str]) -> None:
        """End leases that nobody will pull."""
        for lease_id in lease_ids:
            self.leases.end(lease_id, LeaseOutcome.RELEASED)

    def await_blocks(self, request: Request, source: Source) -> None:
        """Begin to get a request's blocks; a later `settle` returns it."""
        now = self._clock()
        deadline = now + source.seconds
        if request.deadline is not None:
            deadline = min(deadline, request.deadline)
        self._waits[request.id] = _Wait(request, source, now, deadline)

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Forget requests; a pull ends soon then, and gives its blocks back when it has ended."""
        for request_id in request_ids:
            wait = self._waits.pop(request_id, None)
            if wait is None:
                continue
            wait.gone = True
            if wait.pull is not None:
                wait.pull.cancel()
            else:
                release_soon(wait.source, self._tokens)
                self._end(wait, PullOutcome.CANCELLED)

    def settle(self) -> list[Request]:
        """Do what has become due; return the requests that wait no longer."""
        now = self._clock()
        for lease in self.leases.collect(now):
            self._pool.release(lease.blocks)
        ready: list[Request] = []
        while not self._done.empty():
            ready += self._finish(*self._done.get())
        for wait in [wait for wait in self._waits.values() if wait.pull is None]:
            outcome = self._begin(wait, now)
            if outcome is not None:
                if outcome is not PullOutcome.UNUSABLE:
                    release_soon(wait.source, self._tokens)
                ready += self._end(wait, outcome)
        return ready

    def patience(self) -> float | None:
        """Return the seconds until `settle` has something to do by the clock; None for never."""
        due = [wait.deadline for wait in self._waits.values() if wait.pull is None]
        first = self.leases.next_deadline
        if first is not None:
            due.append(first)
        return max(0.0, min(due) - self._clock()) if due else None

    def stats(self) -> HandoffStats:
        """Return the state now and the counts since the engine's start."""
        return HandoffStats(
            leases=len(self.leases),
            leased_blocks=self.leases.blocks,
            lease_ends=dict(self.leases.outcomes),
            pulls=dict(self._outcomes),
            pulled_bytes=self._pulled_bytes,
            pull_seconds=self._pull_seconds,
        )

    def _begin(self, wait: _Wait, now: float) -> PullOutcome | None:
        """Start a pull if there is room for it; an outcome says that there will be none."""
        if not wait.source.lease:
            return PullOutcome.UNUSABLE
        request, size = wait.request, self._pool.block_size
        count = min(wait.source.tokens, len(request.tokens) - 1) // size
        names = request.full_block_names(size, count)
        prefix = self._pool.find(names)
        missing = count - len(prefix)
        if not missing:
            return PullOutcome.CACHED
        if wait.deadline <= now or missing > self._pool.num_blocks * SHARE:
            return PullOutcome.NO_ROOM
        needed = missing + self._pool.idle(prefix)
        if self._pulls == MAX_PULLS or missing > self._room or needed > self._pool.available:
            return None
        self._room -= missing
        self._pulls += 1
        self._pool.hold(prefix)
        wait.prefix = prefix
        wait.pull = Pull(
            wait.source,
            self._identity.fingerprint,
            first=len(prefix),
            names=names[len(prefix) :],
            blocks=self._pool.allocate(missing),
            memory=self._memory,
            tokens=self._tokens,
            deadline=wait.deadline,
            clock=self._clock,
        )
        wait.pull.start(lambda pull: self._report(wait, pull))
        return None

    def _report(self, wait: _Wait, pull: Pull) -> None:
        """Runs on the pull's thread."""
        self._done.put((wait, pull))
        self._wake()

    def _finish(self, wait: _Wait, pull: Pull) -> list[Request]:
        """Make what came findable and let go of it: the request finds it under its names."""
        self._room += len(pull.blocks)
        self._pulls -= 1
        for index in range(pull.first, pull.first + pull.received):
            self._name(wait.request, index, pull.blocks[index - pull.first])
        self._pool.release([*wait.prefix, *pull.blocks])
        self._pulled_bytes += pull.received * self._memory.block_bytes
        size = self._pool.block_size
        # What the other worker had cached counts as cached, as it would have on one worker.
        known = max(0, wait.source.cached_tokens - pull.first * size)
        wait.request.pulled_tokens = max(0, pull.received * size - known)
        return self._end(wait, pull.outcome)

    def _name(self, request: Request, index: int, block: int) -> None:
        names = request.full_block_names(self._pool.block_size, index + 1)
        if self._pool.name(block, names[index]) and self._pool.log is not None:
            self._pool.log.stored(names, request.tokens, index, request.adapter)

    def _end(self, wait: _Wait, outcome: PullOutcome) -> list[Request]:
        """Return the request, if it still waits."""
        self._outcomes[outcome] += 1
        self._pull_seconds += self._clock() - wait.began
        return [] if wait.gone else [self._waits.pop(wait.request.id).request]
