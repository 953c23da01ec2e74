"""The contract between the loop at the socket and an engine, whether it generates or only pools."""

from collections.abc import Callable
from typing import Any, Protocol

from penstock_worker.messages import (
    AdapterChanged,
    AddInputs,
    AddRequest,
    Batch,
    LoadAdapter,
    Output,
    Stats,
    UnloadAdapter,
)


class Engine(Protocol):
    """Works on requests step by step."""

    stalled: bool
    """The latest step had nothing to compute, although something waits."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute, or to give up."""

    def add(self, message: AddRequest | AddInputs) -> Output | None:
        """Accept a request; an Output is a refusal, with the reason."""

    def abort(self, ids: list[str]) -> None:
        """Forget requests."""

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called from other threads when `settle` is due."""

    def close(self) -> None:
        """Keep for later what is to be kept; the engine is of no use afterwards."""

    def change_adapters(self, message: LoadAdapter | UnloadAdapter) -> None:
        """Begin to load an adapter, or let no new request name one."""

    def changed_adapters(self) -> list[AdapterChanged]:
        """Take over adapters that were loaded; return what came of them."""

    def release(self, leases: list[str]) -> None:
        """End leases that nobody will pull."""

    def settle(self) -> None:
        """Take note of what other threads have brought."""

    def patience(self) -> float | None:
        """Return the seconds until there is something to do by the clock; None for never."""

    def step(self) -> Batch:
        """Compute one step, and return what came of it."""

    def stats(self) -> Stats:
        """Return the state at rest."""

    def give_up(self, reason: str) -> Batch:
        """End every request with an error."""

    def check(self) -> None:
        """Raise if the books are wrong."""

    def cache_changes(self) -> list[Any]:
        """Return what a prefix cache took in and gave up since the last call."""
