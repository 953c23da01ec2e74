"""A running process as the runtime keeps track of it."""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock_contract.adapters import AdapterReport
from penstock_contract.api import Role
from penstock_operator.local.decide import Phase, PoolKey, Process, Wanted


@dataclass
class Child:
    """One process: a worker, the gateway, or the batch service.

    Times are monotonic seconds unless said otherwise.
    """

    id: str
    wanted: Wanted
    """Its pool as it was when the process was started."""
    process: "subprocess.Popen[bytes]"
    port: int
    role: Role | None
    """None for the gateway and the batch service."""
    started: float
    started_at: str
    """Wall clock, RFC 3339."""
    phase: Phase = Phase.STARTING
    phase_since: float = field(default=0.0)
    last_healthy: float = field(default=0.0)
    ready_since: float | None = None
    report: Callable[[], AdapterReport] | None = None
    """Tells of its adapters; None: it takes none."""

    def __post_init__(self) -> None:
        self.phase_since = self.last_healthy = self.started

    @property
    def key(self) -> PoolKey:
        """Its pool."""
        return self.wanted.key

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def enter(self, phase: Phase, now: float) -> None:
        """Begin a phase."""
        self.phase, self.phase_since = phase, now
        if phase is Phase.READY:
            self.ready_since = self.last_healthy = now

    def observed(self) -> Process:
        """Return what decisions are made from."""
        return Process(
            id=self.id,
            key=self.key,
            revision=self.wanted.revision,
            phase=self.phase,
            started=self.started,
            phase_since=self.phase_since,
            last_healthy=self.last_healthy,
            drain_timeout=self.wanted.drain_timeout,
            settle=self.wanted.settle,
        )


def how_it_ended(returncode: int) -> str:
    """Return an exit status in words."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
