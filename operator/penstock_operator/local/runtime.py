"""The loop of `penstock up`: observe processes, decide, act, tell.

This is the shell around the pure parts: `desired` says what is wanted, `decide` what to do about
it, `view` what to tell the gateway and the user. It runs on one thread; every file that it writes
is replaced atomically, and only when its content changes.
"""

import asyncio
import secrets
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from penstock_contract.api import EngineType, InferenceDeploymentStatus, Tenant
from penstock_contract.fleet import Fleet
from penstock_operator.local import services, view
from penstock_operator.local.adapters import Folders
from penstock_operator.local.autoscaling import Autoscaler
from penstock_operator.local.backoff import Backoff
from penstock_operator.local.child import Child, how_it_ended
from penstock_operator.local.command import HOST, worker_command
from penstock_operator.local.decide import (
    BATCHES,
    GATEWAY,
    Action,
    Drain,
    Kill,
    Phase,
    PoolKey,
    Start,
    Terminate,
    Wanted,
    decide,
)
from penstock_operator.local.desired import Desired, reconcile
from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home
from penstock_operator.local.journal import Journal
from penstock_operator.local.manifest import missing_model
from penstock_operator.local.ports import free_port
from penstock_operator.local.spawn import end_stale
from penstock_operator.local.store import Store, write_json, write_yaml
from penstock_operator.local.supervisor import Recipe, Supervisor
from penstock_operator.manifests import Unsupported
from penstock_operator.snapshot import Snapshot
from penstock_operator.status import status as compute_status

TICK = 0.1
"""Seconds between two looks at processes and desired state."""


async def run(home: Home, port: int) -> None:
    """Run the processes of a state folder, whose lock the caller holds, until SIGINT or SIGTERM."""
    journal = Journal(now_text)
    if stale := end_stale(home):
        journal.tell("runtime", f"ended {stale} processes of a runtime that was killed")
    async with httpx.AsyncClient(trust_env=False) as client:
        runtime = Runtime(home, port, Supervisor(home, client, journal), journal, client)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, runtime.stop)
        await runtime.run()


class Runtime:
    """Keeps one state folder's processes as its objects want them."""

    def __init__(
        self,
        home: Home,
        port: int,
        supervisor: Supervisor,
        journal: Journal,
        client: httpx.AsyncClient,
    ) -> None:
        self._home = home
        self._port = port
        self._supervisor = supervisor
        self._journal = journal
        self._autoscaler = Autoscaler(
            home, client, journal, lambda: self._desired, lambda: supervisor.children, now_text
        )
        self._store = Store(home.objects)
        self._store_version: object = None
        self._desired = Desired()
        self._backoffs: dict[PoolKey, Backoff] = {}
        self._failures: dict[PoolKey, view.Failure] = {}
        self._workers_started = 0
        self._fleet = Fleet()
        self._tenants: tuple[Tenant, ...] = ()
        self._statuses: dict[str, InferenceDeploymentStatus] = {}
        self._written: dict[str, Any] = {}
        self._batches_port = free_port(avoid={port})
        self._batches_token = secrets.token_hex(32)
        self._serves = False
        self._stopping = False
        self._trouble = ""

    async def run(self) -> None:
        """Keep the processes as desired; after `stop`, drain them and return."""
        scaling = asyncio.create_task(self._autoscaler.run())
        try:
            while True:
                self._step_or_tell()
                if self._stopping:
                    scaling.cancel()
                if self._stopping and not self._supervisor.children:
                    return
                await asyncio.sleep(TICK)
        finally:
            scaling.cancel()
            await asyncio.gather(scaling, return_exceptions=True)
            self._supervisor.end_everything()
            self._home.fleet.unlink(missing_ok=True)
            self._home.tenants.unlink(missing_ok=True)
            self._home.processes.unlink(missing_ok=True)

    def stop(self) -> None:
        """Drain and end everything; a second call kills instead."""
        if self._stopping:
            for child in self._supervisor.children:
                self._supervisor.kill(child.id, "stopped twice")
        else:
            self._journal.tell("runtime", "stopping: first the gateway, then the workers")
        self._stopping = True

    def _step_or_tell(self) -> None:
        """A full disk or a machine without free processes is no reason to stop serving."""
        try:
            self._step()
            self._trouble = ""
        except OSError as error:
            if str(error) != self._trouble:
                self._journal.tell("runtime", f"trying again: {error}")
            self._trouble = str(error)

    def _step(self) -> None:
        now = time.monotonic()
        self._read_desired()
        for child, returncode in self._supervisor.reap():
            self._note_end(child, how_it_ended(returncode), now)
        for action in decide(self._wanted(), self._supervisor.observed(), self._backoffs, now):
            self._act(action)
        self._write_fleet()
        self._write_tenants()
        self._write_status()
        self._supervisor.bound_logs()

    def _read_desired(self) -> None:
        """Plan anew when an object changed; what cannot be used changes nothing of its own."""
        version = self._store.version()
        if version == self._store_version:
            return
        # Taken before reading: a write that comes in between is seen the next time.
        self._store_version = version
        before, told = self._desired.pools, self._desired.troubles
        try:
            self._desired = reconcile(self._store, now_text(), self._desired)
        except UserError as error:
            self._journal.tell("runtime", f"stays with what it had: {error}")
            return
        now = self._desired.pools
        for name, trouble in self._desired.troubles.items():
            if str(trouble) != str(told.get(name, "")):
                self._journal.tell("runtime", f"{name} stays with what it had: {trouble}")
        for key, planned in before.items():
            if key not in now or now[key].wanted.revision != planned.wanted.revision:
                self._backoffs.pop(key, None)  # a new revision gets its chance at once
                self._failures.pop(key, None)
        named = {deployment.metadata.name for deployment in self._desired.deployments}
        self._statuses = {name: told for name, told in self._statuses.items() if name in named}

    def _wanted(self) -> list[Wanted]:
        """Return what to run; while stopping, the workers outlive the gateway."""
        workers = [planned.wanted for planned in self._desired.pools.values()]
        if not self._stopping:
            return [GATEWAY, *self._batches(), *workers]
        gateway_lives = any(child.key == GATEWAY.key for child in self._supervisor.children)
        return workers if gateway_lives else []

    def _batches(self) -> list[Wanted]:
        """The batch service is wanted once all else is ready: nobody's first token waits for it."""
        phases = [child.phase for child in self._supervisor.children]
        self._serves = self._serves or (bool(phases) and Phase.STARTING not in phases)
        return [BATCHES] if self._serves else []

    def _note_end(self, child: Child, ended: str, now: float) -> None:
        """Record an end; one that nobody asked for counts as a failure of its pool."""
        if self._stopping or child.observed().leaving:
            self._journal.tell(child.id, f"stopped: it {ended}")
            return
        before = self._backoffs.get(child.key, Backoff())
        backoff = before.after_exit(child.started, child.ready_since, now)
        self._backoffs[child.key] = backoff
        self._failures[child.key] = view.Failure(
            process=child.id,
            ended=ended,
            in_a_row=backoff.failures,
            restarts=view.restarts(self._failures.get(child.key)) + 1,
            at=now,
        )
        wait = max(0.0, backoff.retry_at - now)
        self._journal.tell(child.id, f"{ended}; the next one starts in {wait:.0f} s")

    def _act(self, action: Action) -> None:
        match action:
            case Start(key, reason):
                self._start(key, reason)
            case Drain(name, reason):
                self._supervisor.drain(name, reason)
            case Terminate(name):
                self._supervisor.terminate(name)
            case Kill(name, reason):
                self._supervisor.kill(name, reason)

    def _start(self, key: PoolKey, reason: str) -> None:
        planned = self._desired.pools.get(key)
        if planned is None:
            make = services.batches if key == BATCHES.key else services.gateway
            recipe = make(self._home, self._port, self._batches_port, self._batches_token)
            self._supervisor.start(key.pool, recipe, reason, now_text())
            return
        self._workers_started += 1
        name = f"{key.deployment}-{key.pool}-{self._workers_started}"
        taken = {self._port, self._batches_port, *self._supervisor.ports}
        port = free_port(avoid=taken)
        spec = planned.deployment.spec
        recipe = Recipe(
            wanted=planned.wanted,
            command=worker_command(
                planned.container,
                port=port,
                model=planned.model_folder,
                tier=str(self._home.tier(key.deployment)),
                side_channel=free_port(avoid={port, *taken}),
                programs=self._programs(),
            ),
            port=port,
            role=planned.pool.spec.role,
            model=planned.deployment.served_name,
            adapters=self._adapters_of(key) if spec.engine.lora is not None else None,
            by_name=spec.engine.type is EngineType.VLLM,
        )
        self._supervisor.start(name, recipe, reason, now_text())

    def _adapters_of(self, key: PoolKey) -> Callable[[], Folders]:
        """Return what tells which adapters workers of a pool are to have; of one that leaves, none.

        Those that it has stay until it has gone.
        """
        last: dict[str, Folders] = {"folders": {}}

        def folders() -> Folders:
            planned = self._desired.pools.get(key)
            if planned is not None:
                last["folders"] = planned.adapters
            return last["folders"]

        return folders

    def _programs(self) -> dict[str, str]:
        venv = self._home.vllm_venv
        return {"vllm": str(venv / "bin" / "vllm")} if venv else {}

    def _write_fleet(self) -> None:
        """Tell the gateway, when there is something new to tell."""
        fleet = view.fleet(self._desired, self._supervisor.children, self._fleet.generation)
        if fleet != self._fleet or not self._home.fleet.exists():
            self._fleet = fleet.model_copy(update={"generation": fleet.generation + 1})
            self._fleet.write(self._home.fleet)

    def _write_tenants(self) -> None:
        """Tell the gateway whose keys it takes; with no tenant it takes everyone."""
        tenants = self._desired.tenants
        if tenants != self._tenants or not self._home.tenants.exists():
            self._tenants = tenants
            write_yaml(self._home.tenants, [tenant.to_json() for tenant in tenants])

    def _write_status(self) -> None:
        """Tell the user, when there is something new to tell."""
        children, failures = self._supervisor.children, self._failures
        gateway = view.gateway(children, failures.get(GATEWAY.key))
        endpoint = f"http://{HOST}:{self._port}"
        items = []
        for deployment in self._desired.deployments:
            name = deployment.metadata.name
            pools = view.pools(name, self._desired, children, failures)
            trouble = self._desired.troubles.get(name)
            seen = Snapshot(
                tuple(pools),
                router_ready=gateway["state"] == Phase.READY,
                url=f"{endpoint}/v1",
                model_missing=missing_model(deployment),
                scaling=self._autoscaler.report(name),
                unsupported=trouble if isinstance(trouble, Unsupported) else None,
                adapters=tuple(view.adapters(deployment, children)),
            )
            before = self._statuses.get(name)
            self._statuses[name] = compute_status(deployment, seen, before, now_text())
            current = deployment.model_copy(update={"status": self._statuses[name]})
            items.append(view.item(current, children, failures))
        events = self._journal.to_json()
        document = {
            "endpoint": endpoint,
            "gateway": gateway,
            "items": items,
            "troubles": {name: str(why) for name, why in self._desired.troubles.items()},
            "leaving": view.leaving(self._desired, children),
            "events": events,
        }
        if document != self._written:
            self._written = document
            write_json(self._home.status, document)


def now_text() -> str:
    """Return the wall clock as RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
