"""A router that tells what it learns, and learns what the other processes tell.

What happens is told as it happens, and forgotten where it does not arrive: a prefix that a sibling
misses costs it a hit, no more. Loads are told as they are, again and again, so that none stays for
ever that has gone.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from penstock_gateway.routing.affinity import session_digest
from penstock_gateway.routing.observation import Observation, observation_of
from penstock_gateway.routing.outliers import Pace
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prediction, Prompt, Ticket
from penstock_gateway.routing.worker_load import Load
from penstock_gateway.siblings.change_log import ChangeLog, Event

Loads = dict[str, list[int]]
"""Outstanding tokens, resident requests, tokens of KV and uncomputed prompts, by worker."""
_UNKNOWN: Final = PromptUsage()


class SharedRouter(Router):
    """The router of one of several processes.

    Args:
        index: of this process.
        changes: of what the others have to know.
    """

    def __init__(self, index: PrefixIndex, changes: ChangeLog) -> None:
        super().__init__(index)
        self._changes = changes
        self._theirs: dict[int, Loads] = {}
        """By sibling."""

    # what is told

    def take(self, choice: Choice, prompt: Prompt, now: float, *, pulled: bool = False) -> Ticket:
        """See `Router.take`."""
        ticket = super().take(choice, prompt, now, pulled=pulled)
        load = self._load(choice.id)
        uncached = prompt.size - int(choice.matched * load.bytes_per_token)
        seconds = 0.0 if pulled else choice.uncached * load.speed.speed.token
        session = session_digest(prompt.session) if prompt.session else None
        self._changes.touch(choice.id)
        self._changes.note(["sent", choice.id, prompt.keys, uncached, seconds, session])
        return ticket

    def answered(
        self, ticket: Ticket, now: float, usage: PromptUsage = _UNKNOWN, epoch: bytes = b""
    ) -> Prediction | None:
        """See `Router.answered`."""
        worker, load = ticket.worker, self._loads.get(ticket.worker)
        if load is None:
            return None
        was_well = not (load.breaker.failures or load.breaker.errors)
        known = load.epoch
        prediction = super().answered(ticket, now, usage, epoch)
        self._changes.touch(worker)
        if not was_well:
            self._changes.note(["well", worker])
        if epoch and epoch != known:
            self._changes.note(["epoch", worker, epoch.decode("latin-1")])
        found = observation_of(ticket, now, usage)
        values = [found.took, found.size, found.prompt, found.age, found.right]
        self._changes.note(["answered", worker, found.behind, found.decoding, *values])
        return prediction

    def ended(
        self,
        ticket: Ticket,
        *,
        counts: bool = True,
        failed: bool = False,
        down_at: float | None = None,
        erred_at: float | None = None,
        broken_off_at: float | None = None,
    ) -> None:
        """See `Router.ended`."""
        worker, load = ticket.worker, self._loads.get(ticket.worker)
        if load is None:
            return
        retracted, was_open = failed and not ticket.begun, load.breaker.open
        super().ended(
            ticket, counts=counts, failed=failed, down_at=down_at, erred_at=erred_at,
            broken_off_at=broken_off_at,
        )  # fmt: skip
        if retracted:
            self._changes.note(["retracted", worker, ticket.prompt.keys])
        if load.breaker.open and not was_open:
            when = (down_at, erred_at, broken_off_at)
            self._changes.note(["down", worker, next(at for at in when if at is not None)])
        self._changes.touch(worker)

    def streamed(self, worker: str, mean_pause: float) -> None:
        """See `Router.streamed`."""
        super().streamed(worker, mean_pause)
        self._changes.note(["streamed", worker, mean_pause])

    def put_slow_aside(self, pool: Mapping[str, Iterable[float]], now: float) -> list[str]:
        """See `Router.put_slow_aside`."""
        found = super().put_slow_aside(pool, now)
        for worker in found:
            pace = self._load(worker).pace
            self._changes.note(["aside", worker, pace.aside_until, pace.ejections])
        return found

    def loads(self, workers: Iterable[str] | None, now: float) -> Loads:
        """Return what this process has on some workers, or on all that it has anything on."""
        self._unseen.let_go(self._loads, now)
        if workers is None:
            workers = [name for name, load in self._loads.items() if load.kv]
        named = [(name, self._loads[name]) for name in workers if name in self._loads]
        return {
            name: [load.outstanding, len(load.kv), load.kv_used, len(load.waiting)]
            for name, load in named
        }

    # what is heard

    def elsewhere(self, sibling: int, loads: Loads, *, whole: bool) -> None:
        """Take over what a sibling has on workers; where that is the whole, on no others."""
        known = self._theirs.setdefault(sibling, {})
        touched = {*known, *loads} if whole else {*loads}
        if whole:
            known.clear()
        known.update(loads)
        for worker in touched:
            load = self._loads.get(worker)
            if load is not None:
                told = [found[worker] for found in self._theirs.values() if worker in found]
                load.others_outstanding = sum(found[0] for found in told)
                load.others_resident = sum(found[1] for found in told)
                load.others_kv = sum(found[2] for found in told)
                load.others_waiting = sum(found[3] for found in told)

    def still(self, sibling: int) -> None:
        """A sibling that says nothing: its prompts are computed by now, as far as anybody knows."""
        known = self._theirs.get(sibling, {})
        told = {worker: [0, resident, kv, 0] for worker, (_, resident, kv, _) in known.items()}
        self.elsewhere(sibling, told, whole=False)

    def hear(self, event: Event, now: float) -> None:
        """Learn from what happened at a sibling."""
        load = self._load(event[1])
        match event:
            case ["sent", worker, keys, uncached, seconds, session]:
                self._index.record(keys, worker, uncached)
                load.given(seconds, now)
                if session is not None:
                    self._sessions.put(session, worker)
            case ["answered", _, *values]:
                self._learn(load, Observation(*values))
            case ["retracted", worker, keys]:
                self._index.retract_last(keys, worker)
            case ["streamed", worker, mean_pause]:
                super().streamed(worker, mean_pause)
            case _:
                self._hear_health(event, load)

    def _hear_health(self, event: Event, load: Load) -> None:
        """Believe a sibling that a worker is down, well, slow or new."""
        match event:
            case ["down", _, at]:
                load.breaker = load.breaker.failed(at)
            case ["well", _]:
                load.breaker = load.breaker.succeeded()
            case ["aside", _, until, ejections]:
                if until > load.pace.aside_until:
                    load.pace = Pace(0.0, 0, ejections, until)
            case ["epoch", worker, name]:
                epoch = name.encode("latin-1")
                if load.epoch not in (b"", epoch):
                    self._index.forget(worker)
                load.epoch = epoch
