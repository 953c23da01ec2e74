"""`penstock down`: ending a runtime from outside, or a part of what it serves."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penstock_contract.api import InferenceDeployment, Tenant
from penstock_operator.local.errors import UserError
from penstock_operator.local.follow import Follower, read_status
from penstock_operator.local.home import Home
from penstock_operator.local.manifest import read_manifest
from penstock_operator.local.ownership import owner
from penstock_operator.local.spawn import end_stale
from penstock_operator.local.store import Store, Stored

PAUSE = 0.1


def stop(home: Home, show: Callable[[str], None]) -> None:
    """Tell the runtime to drain and end, and wait until it has.

    How long that takes is bounded by the drain timeouts of the deployments.

    Raises:
        UserError: none is running.
    """
    runtime = owner(home)
    if runtime is None:
        if stale := end_stale(home):
            show(f"ended {stale} processes that a killed runtime had left behind")
            return
        raise UserError(f"nothing is running in {home.root}")
    follower = Follower(home, show)
    runtime.signal(signal.SIGTERM)
    while runtime.alive:
        follower.show_new_events()
        time.sleep(PAUSE)
    follower.show_new_events()
    show("everything has ended")


def take_away(home: Home, file: Path, show: Callable[[str], None]) -> None:
    """Remove what a manifest declares, by kind and name; the rest goes on.

    Returns once the workers of its deployments have drained and ended.

    Raises:
        UserError: nothing is running, or the manifest is not valid, or nothing of it is here.
    """
    runtime = owner(home)
    if runtime is None:
        raise UserError(f"nothing is running in {home.root}")
    declared = read_manifest(file)
    store, follower = Store(home.objects), Follower(home, show)
    gone = {one.metadata.name for one in declared.deployments} & _names(store, InferenceDeployment)
    callers = {one.metadata.name for one in declared.tenants} & _names(store, Tenant)
    if not gone and not callers:
        raise UserError(f"nothing of {file} is here; penstock get shows what is")
    for name in gone:
        store.delete(InferenceDeployment, name)
    for name in callers:
        store.delete(Tenant, name)
    while runtime.alive and not _is_gone(read_status(home), gone):
        follower.show_new_events()
        time.sleep(PAUSE)
    follower.show_new_events()
    show(f"taken away: {', '.join(sorted(gone | callers))}")
    if callers and not store.list(Tenant):
        show("no Tenant is left: the gateway takes everyone")


def _names(store: Store, kind: type[Stored]) -> set[str]:
    return {found.metadata.name for found in store.list(kind)}


def _is_gone(status: dict[str, Any] | None, deployments: set[str]) -> bool:
    """Whether nothing of these deployments is served, or still runs."""
    if status is None:
        return False
    served = {item["metadata"]["name"] for item in status["items"]}
    running = {worker["deployment"] for worker in status["leaving"]}
    return deployments.isdisjoint(served | running)
