"""What the gateways have on the workers, asked of each of them again and again."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

import httpx
from pydantic import ValidationError

from penstock_contract.fleet import (
    GATEWAY_WORKERS_PATH,
    GatewayWorkers,
    WorkerLoad,
    WorkerState,
    total_loads,
)
from penstock_operator.autoscaling.names import GATEWAY_FAMILIES
from penstock_operator.autoscaling.sources import Target
from penstock_operator.cluster.observed import Gateways
from penstock_operator.manifests import Object

log = logging.getLogger("penstock.operator.gateways")

SOON = 0.5
"""Seconds between two questions while workers drain or a canary is on trial."""
USUALLY = 10.0
TIMEOUT = 3.0
SILENCE = 10.0
"""Seconds without any gateway's answer after which nobody is waited for: workers refuse what is
new by themselves, and a gateway that is back sends it elsewhere."""
PORT = 8000
REMEMBERED = 10_000
"""Draining workers."""

Addresses = Callable[[], list[str]]
Changed = Callable[[bool], None]
"""Told that answers differ; true: the gateways as a whole came or went."""


class GatewayWatch:
    """Keeps `view` true."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        addresses: Addresses,
        url: str | None,
    ) -> None:
        self._http = http
        self._addresses = addresses
        self._url = url
        self._changed: Changed = lambda _: None
        self._answered = time.monotonic()
        self._asked = 0.0
        self._awaited: dict[str, float] = {}
        self._outdated = False
        self._urgent = asyncio.Event()
        self._answers: list[GatewayWorkers] | None = None
        self._loads: Mapping[str, WorkerLoad] = {}
        self._missing = False

    def on_change(self, changed: Changed) -> None:
        """Say whom to call when an answer differs from the one before."""
        self._changed = changed

    def hurry(self) -> None:
        """Ask again soon: somebody waits for the answer."""
        self._urgent.set()

    def view(self, draining: frozenset[str], since: float | None = None) -> Gateways:
        """Return what is known.

        Args:
            draining: pods whose drains are confirmed or not.
            since: when it began to matter who has the least to do; None: it did not yet.
        """
        if len(self._awaited) > REMEMBERED:
            self._awaited.clear()  # who still drains waits for one more answer
        return Gateways(
            ready=bool(self._answers),
            url=f"{self._url}/v1" if self._url else None,
            loads=self._loads,
            fresh=self._answers == [] or (since is not None and since < self._asked),
            confirmed=frozenset(uid for uid in draining if self._confirms(uid)),
        )

    async def begin(self) -> None:
        """Ask once; that nobody was asked until now does not mean that no gateway answers."""
        self._answered, self._answers = time.monotonic(), None
        self._awaited.clear()
        await self._ask()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            before = self._answers
            self._urgent.clear()
            await self._ask()
            if self._answers != before or self._outdated:
                self._outdated = False
                self._changed(bool(self._answers) != bool(before))
            try:
                async with asyncio.timeout(USUALLY):
                    await self._urgent.wait()
                await asyncio.sleep(SOON)
            except TimeoutError:
                pass

    async def _ask(self) -> None:
        began = time.monotonic()
        addresses = self._addresses()
        found = await asyncio.gather(*(self._one(address) for address in addresses))
        answers = [answer for answer in found if answer is not None]
        self._missing = len(answers) < len(addresses)
        if answers:
            self._answered = time.monotonic()
            self._asked = began
            self._answers = answers
        elif time.monotonic() - self._answered > SILENCE or self._answers is None:
            self._answers = []
        # Once: everyone's turn looks at them.
        self._loads = total_loads(answer.workers for answer in self._answers or [])

    async def _one(self, address: str) -> GatewayWorkers | None:
        try:
            answer = await self._http.get(f"{address}{GATEWAY_WORKERS_PATH}", timeout=TIMEOUT)
            answer.raise_for_status()
            return GatewayWorkers.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            log.debug("%s: %s", address, error)
            return None

    def _confirms(self, uid: str) -> bool:
        """A gateway that does not list a worker does not send to it either.

        What it said before the worker drained tells nothing: it may not have known it yet.
        """
        now = time.monotonic()
        since = self._awaited.setdefault(uid, now)
        if now - self._answered > SILENCE:
            return True
        if self._asked <= since:
            self._outdated = True
            return False
        if self._missing or not self._answers:
            return False
        loads = [found.workers.get(uid) for found in self._answers]
        return all(load is None or load.state is WorkerState.DRAINING for load in loads)


def pod_targets(pods: list[Object]) -> list[Target]:
    """Return the gateway pods that are up."""
    found = []
    for pod in pods:
        meta, state = pod["metadata"], pod.get("status", {})
        conditions = {c["type"]: c["status"] for c in state.get("conditions", [])}
        if state.get("podIP") and conditions.get("Ready") == "True":
            url = base_url(state["podIP"])
            found.append(Target(meta["name"], url, GATEWAY_FAMILIES, meta["namespace"]))
    return found


def base_url(address: str) -> str:
    """Return where a pod of ours is asked."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{PORT}"
