"""Several gateway processes as one router: each request comes to one of them by chance.

What they learn they tell each other as real ones do, and as late; without the sockets in between.
"""

import random
from collections.abc import Iterable
from typing import Any

from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.ticket import Prediction, Prompt, Ticket
from penstock_gateway.routing.worker_load import Tally
from penstock_gateway.siblings.change_log import ChangeLog
from penstock_gateway.siblings.mesh import BATCH_SECONDS
from penstock_gateway.siblings.router import SharedRouter


class Processes:
    """Looks like a Router to who replays a trace.

    Args:
        count: of processes.
    """

    def __init__(self, count: int) -> None:
        self._change_logs = [ChangeLog(lambda: None) for _ in range(count)]
        self._routers = [SharedRouter(PrefixIndex(), changes) for changes in self._change_logs]
        self._at: dict[Ticket, SharedRouter] = {}
        self._random = random.Random(2)
        self._one = self._routers[0]
        self._told = 0.0

    def rank(
        self, workers: Iterable[FleetWorker], prompt: Prompt, *, now: float, **more: Any
    ) -> list[Choice]:
        """See `Router.rank`; the process is a new one each time."""
        self._tell(now)
        self._one = self._random.choice(self._routers)
        return self._one.rank(workers, prompt, now=now, **more)

    def take(self, choice: Choice, prompt: Prompt, now: float) -> Ticket:
        """See `Router.take`; by the process that ranked last."""
        ticket = self._one.take(choice, prompt, now)
        self._at[ticket] = self._one
        return ticket

    def answered(self, ticket: Ticket, now: float, usage: PromptUsage) -> Prediction | None:
        """See `Router.answered`."""
        return self._at[ticket].answered(ticket, now, usage)

    def ended(self, ticket: Ticket) -> None:
        """See `Router.ended`."""
        self._at.pop(ticket).ended(ticket)

    def tally(self, worker: str) -> Tally:
        """See `Router.tally`, of all processes."""
        found = [router.tally(worker) for router in self._routers]
        return Tally(
            sum(tally.in_flight for tally in found),
            sum(tally.outstanding_tokens for tally in found),
            sum(tally.requests for tally in found),
            sum(tally.failures for tally in found),
        )

    def _tell(self, now: float) -> None:
        if now - self._told < BATCH_SECONDS:
            return
        self._told = now
        for number, router in enumerate(self._routers):
            events, workers = self._change_logs[number].read()
            loads = router.loads(workers, now)
            for other in self._routers:
                if other is not router:
                    for event in events:
                        other.hear(event, now)
                    other.elsewhere(number, loads, whole=False)
