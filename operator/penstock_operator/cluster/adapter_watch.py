"""Tells agents which adapters their engines are to have, and asks how far they are.

The operator tells them, instead of a volume that kubelets refresh within a minute or two: an
adapter is there within seconds, and the answer says at once what became of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from penstock_contract.adapters import AGENT_PATH, PORT, AdapterReport, AdapterState
from penstock_contract.worker_token import WorkerTokens
from penstock_operator.cluster.actions import Agent
from penstock_operator.cluster.cache import Key

log = logging.getLogger("penstock.operator.adapters")

SOON = 0.5
"""Seconds between two questions while an agent has something to do."""
USUALLY = 10.0
TIMEOUT = 3.0
AT_ONCE = 64


@dataclass
class _Asked:
    agent: Agent
    report: AdapterReport | None = None
    due: float = 0.0
    asking: bool = False


class AdapterWatch:
    """Keeps `reports` true.

    Args:
        http: for agents.
        tokens: shown to them.
        leads: whether this operator may act; one that was paused hears late that it may not.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        tokens: WorkerTokens | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._http = http
        self._headers = dict((tokens or WorkerTokens()).headers())
        self._leads = leads
        self._asked: dict[Key, dict[str, _Asked]] = {}
        self._changed: Callable[[set[Key]], None] = lambda _: None
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)

    def on_change(self, changed: Callable[[set[Key]], None]) -> None:
        """Say whom to call when an answer differs from the one before."""
        self._changed = changed

    def want(self, key: Key, agents: Mapping[str, Agent]) -> None:
        """Take over what the agents of an InferenceDeployment are to be told, by pod uid."""
        before = self._asked.pop(key, {})
        now: dict[str, _Asked] = {}
        for uid, agent in agents.items():
            known = before.get(uid)
            now[uid] = known or _Asked(agent)
            if known is None or known.agent != agent:
                now[uid].agent, now[uid].due = agent, 0.0
                self._news.set()
        if now:
            self._asked[key] = now

    def reports(self, key: Key) -> dict[str, AdapterReport]:
        """Return what the agents of an InferenceDeployment said last, by pod uid."""
        asked = self._asked.get(key, {})
        return {uid: one.report for uid, one in asked.items() if one.report is not None}

    async def run(self) -> None:
        """Ask until cancelled; the caller holds the lease.

        It begins with nobody: what was wanted while it was held before may be wanted no more.
        """
        self._asked.clear()
        async with asyncio.TaskGroup() as asking:  # who does not answer holds up nobody else
            while True:
                self._news.clear()
                for key, one in self._due():
                    one.asking = True
                    asking.create_task(self._ask(key, one))
                try:
                    async with asyncio.timeout(SOON):
                        await self._news.wait()
                except TimeoutError:
                    pass

    def _due(self) -> list[tuple[Key, _Asked]]:
        now = time.monotonic()
        return [
            (key, one)
            for key, agents in self._asked.items()
            for one in agents.values()
            if one.due <= now and not one.asking
        ]

    async def _ask(self, key: Key, asked: _Asked) -> None:
        async with self._room:
            agent = asked.agent  # as it is now that its turn has come
            report = await self._tell(agent)
        asked.asking = False
        if asked.agent is agent:
            asked.due = time.monotonic() + (USUALLY if _settled(agent, report) else SOON)
        else:  # told otherwise meanwhile, it is due at once
            self._news.set()
        if report is not None and report != asked.report:
            asked.report = report
            self._changed({key})

    async def _tell(self, agent: Agent) -> AdapterReport | None:
        if not self._leads():
            return None
        host = f"[{agent.address}]" if ":" in agent.address else agent.address
        url = f"http://{host}:{PORT}{AGENT_PATH}"
        body = agent.wanted.model_dump_json()
        try:
            answer = await self._http.put(url, content=body, headers=self._headers, timeout=TIMEOUT)
            answer.raise_for_status()
            return AdapterReport.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            log.debug("%s: %s", url, error)
            return None


def _settled(agent: Agent, report: AdapterReport | None) -> bool:
    """Return whether an agent has nothing to do, and gateways know what its engine has."""
    if report is None or not report.tried or agent.wanted.announced != report.loaded:
        return False
    states = {one.state for one in report.adapters.values()}
    wanted = {one.name for one in agent.wanted.adapters}
    return AdapterState.LOADING not in states and report.adapters.keys() == wanted
