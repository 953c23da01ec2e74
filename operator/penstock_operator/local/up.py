"""`penstock up`: check what can be checked, then start a runtime or apply to the running one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from penstock_contract.api import EngineType, InferenceDeployment, Tenant
from penstock_operator.local.download import cache_folder, fetched
from penstock_operator.local.errors import UserError
from penstock_operator.local.follow import Follower, NotReady, read_status
from penstock_operator.local.home import Home
from penstock_operator.local.manifest import (
    check_engines,
    check_models,
    check_names,
    check_supported,
    check_tenants,
    left_to_clusters,
    read_manifest,
)
from penstock_operator.local.ownership import AlreadyRunning, RuntimeLock, owner
from penstock_operator.local.ports import holder, is_free
from penstock_operator.local.spawn import spawn
from penstock_operator.local.store import Store

DEFAULT_PORT = 8000
PATIENCE = 120.0
VLLM_PATIENCE = 600.0
"""Seconds until everything must serve; vLLM compiles the model first."""
DAEMON = "penstock_operator.local.daemon"
Show = Callable[[str], None]


def up(
    home: Home,
    file: Path,
    *,
    port: int | None,
    timeout: float | None,
    detach: bool,
    show: Show,
    vllm_venv: Path | None = None,
) -> None:
    """Serve a manifest; in the foreground, until interrupted.

    Args:
        home: the state folder.
        file: the manifest.
        port: of the endpoint; None means the default, or that of the running runtime.
        timeout: seconds until it must serve; None means what its engines usually need.
        detach: return once it serves.
        show: prints a line.
        vllm_venv: virtual environment with vLLM in it, for deployments that want that engine; None
            means the one that was named last.

    Raises:
        UserError: it cannot be run like this.
        NotReady: it does not serve; a runtime that was started for it has ended again.
    """
    cache = cache_folder(os.environ)
    declared = read_manifest(file)
    for other in declared.others:
        show(f"{file}: {other} is left to clusters")
    tenants = check_tenants(declared.tenants)
    wanted = check_supported(declared.deployments)
    for words in left_to_clusters(wanted):
        show(f"{file}: {words}")
    wanted = check_engines(wanted, vllm_venv or home.vllm_venv)
    if timeout is None:
        waits = any(one.spec.engine.type is EngineType.VLLM for one in wanted)
        timeout = VLLM_PATIENCE if waits else PATIENCE
    deployments = check_models([fetched(deployment, cache, show) for deployment in wanted])
    check_names(deployments, [])
    try:
        lock = RuntimeLock.take(home)
    except AlreadyRunning:
        home.use_vllm(vllm_venv)
        _apply(home, deployments, tenants, port, timeout, show)
        return
    try:
        port = _usable(port or DEFAULT_PORT)
        home.use_vllm(vllm_venv)
        applied = _begin(home, deployments)
        _put_tenants(home, tenants)
        daemon = _start(home, port, lock, detach=detach)
    finally:
        lock.close()
    asyncio.run(_StartedRuntime(home, daemon, show).wait(applied, timeout, detach=detach))


def _apply(
    home: Home,
    deployments: list[InferenceDeployment],
    tenants: list[Tenant],
    port: int | None,
    timeout: float,
    show: Show,
) -> None:
    """Hand everything to the runtime that runs already, and wait until it serves."""
    follower = Follower(home, show)
    status = read_status(home)
    if port and status and not status["endpoint"].endswith(f":{port}"):
        raise UserError(
            f"already running at {status['endpoint']}; leave out --port to apply the file there, "
            "or stop it first: penstock down"
        )
    store = Store(home.objects)
    check_names(deployments, store.readable(InferenceDeployment))
    applied = _put(store, deployments)
    _put_tenants(home, tenants)
    names = [*applied, *(tenant.metadata.name for tenant in tenants)]
    show(f"applied to what is running: {', '.join(names)}")
    alive = lambda: owner(home) is not None  # noqa: E731
    show_success(show, asyncio.run(follower.until_ready(applied, timeout, alive)))


def _begin(home: Home, deployments: list[InferenceDeployment]) -> dict[str, int]:
    """Forget the last run (but not its processes) and write down what this one is to run."""
    home.status.unlink(missing_ok=True)
    home.fleet.unlink(missing_ok=True)
    for old in (*home.logs.glob("*"), *home.autoscaling.glob("*")):
        old.unlink()
    store = Store(home.objects)
    store.clear()
    return _put(store, deployments)


def _put(store: Store, deployments: list[InferenceDeployment]) -> dict[str, int]:
    """Store objects; return the generation of each by name."""
    stored = [store.put(deployment, _now()) for deployment in deployments]
    return {obj.metadata.name: obj.metadata.generation for obj in stored}


def _put_tenants(home: Home, tenants: list[Tenant]) -> None:
    """Store tenants beside those that are known."""
    for tenant in tenants:
        Store(home.objects).put(tenant, _now())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _usable(port: int) -> int:
    """Return the port.

    Raises:
        UserError: somebody listens there.
    """
    if is_free(port):
        return port
    who = holder(port) or "another process"
    raise UserError(f"port {port} is taken by {who}: stop it, or choose another with --port")


def _start(home: Home, port: int, lock: RuntimeLock, *, detach: bool) -> "subprocess.Popen[bytes]":
    """Start the runtime; in the foreground it ends when this process does."""
    argv = [sys.executable, "-m", DAEMON, str(home.root), str(port), str(lock.file)]
    if not detach:
        return spawn(argv, os.environ, home.log("runtime"), pass_fds=[lock.file])
    with home.log("runtime").open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.file],
            start_new_session=True,
        )


class _StartedRuntime:
    """Stays with a runtime from its start until it serves, or for ever."""

    def __init__(self, home: Home, daemon: "subprocess.Popen[bytes]", show: Show) -> None:
        self._daemon = daemon
        self._show = show
        self._follower = Follower(home, show)
        self._interrupted = False

    async def wait(self, applied: Mapping[str, int], patience: float, *, detach: bool) -> None:
        """Wait until it serves, then until it ends unless it is to be left alone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            endpoint = await self._follower.until_ready(applied, patience, self._alive)
        except NotReady:
            if self._alive():
                self._daemon.terminate()
            await self._until_ended()
            if self._interrupted:
                return
            raise
        show_success(self._show, endpoint)
        if not detach:
            self._show("Ctrl-C drains and stops it.")
            await self._until_ended()

    def _interrupt(self) -> None:
        """Pass it on: the first one drains, the next one kills."""
        self._interrupted = True
        self._daemon.terminate()

    def _alive(self) -> bool:
        return self._daemon.poll() is None

    async def _until_ended(self) -> None:
        """Show what happens until the runtime has ended."""
        while self._alive():
            self._follower.show_new_events()
            await asyncio.sleep(0.1)
        self._follower.show_new_events()


def show_success(show: Show, endpoint: str) -> None:
    """Say where it is, and what to do next."""
    show(f'Ready: {endpoint}/v1\nNext:  penstock chat "What is a list?"')
