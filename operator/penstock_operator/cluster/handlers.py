"""kopf follows the API's own objects; its handlers only keep the cache true and wake the loop.

No daemons, no annotations, no finalizers: deletion never waits for an operator, and a quiescent
object is never written. kopf has a thread and an event loop of its own: it takes the signals of the
main thread otherwise, and cancels every task that it finds in its loop when it stops.

When the API server has lost history, kopf lists again and tells what there is, but never what went
meanwhile; `compare` finds that. It is asked whenever any watch has to begin with a list again.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from penstock_contract.labels import GROUP, VERSION
from penstock_operator.cluster.api import WATCH_SECONDS, Api
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import ENGINE_POOL, INFERENCE_DEPLOYMENT
from penstock_operator.manifests import Object

FOLLOWED = (INFERENCE_DEPLOYMENT, ENGINE_POOL)
Changed = Callable[[set[Key]], None]


async def follow(
    cache: Cache, changed: Changed, relisted: asyncio.Event, namespaces: Sequence[str]
) -> None:
    """Follow InferenceDeployments and EnginePools until cancelled.

    Args:
        cache: is kept true, but for what a new list does not show any more.
        changed: is told which InferenceDeployments there is news of.
        relisted: is set when there is such a list.
        namespaces: to watch; none: all.

    Raises:
        RuntimeError: kopf gave up.
    """
    loop = asyncio.get_running_loop()
    stop, ended = threading.Event(), asyncio.Event()

    def seen(kind: str, event: str, found: Object) -> None:
        meta = found["metadata"]
        if not event:
            relisted.set()
        cache.passed(kind, meta["namespace"] if namespaces else None, meta["resourceVersion"])
        changed(cache.drop(kind, found) if event == "DELETED" else cache.put(kind, found))

    def tell(kind: str, event: str, found: Object) -> None:
        loop.call_soon_threadsafe(seen, kind, event, found)

    def run() -> None:
        try:
            asyncio.run(_operate(tell, namespaces, stop))
        finally:
            loop.call_soon_threadsafe(ended.set)

    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    try:
        await ended.wait()
        raise RuntimeError("kopf ended; its log says why")
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, 5)


async def compare(api: Api, cache: Cache, changed: Changed, namespaces: Sequence[str]) -> None:
    """Make the cache true even where kopf missed something.

    Raises:
        ApiError: the API server cannot tell.
    """
    places: list[str | None] = [*namespaces] or [None]
    for kind in FOLLOWED:
        for place in places:
            found = await api.list(kind, place)
            items = [{"apiVersion": kind.version, "kind": kind.name, **i} for i in found["items"]]
            version = found["metadata"]["resourceVersion"]
            changed(cache.compare(kind.name, place, items, version))


async def _operate(
    tell: Callable[[str, str, Object], None], namespaces: Sequence[str], stop: threading.Event
) -> None:
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)

    def handler(kind: str) -> Callable[..., Any]:
        async def handle(event: Any, **_: Any) -> None:
            found: Object = dict(event["object"])
            tell(kind, event["type"] or "", {**found, "metadata": dict(found["metadata"])})

        return handle

    for kind in FOLLOWED:
        kopf.on.event(GROUP, VERSION, kind.plural, registry=registry)(handler(kind.name))
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        namespaces=list(namespaces),
        clusterwide=not namespaces,
        standalone=True,  # one acts: a Lease sees to that
        stop_flag=stop,
    )


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_via_client(**arguments)


def _settings() -> kopf.OperatorSettings:
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.scanning.disabled = True  # namespaces and kinds are known; no rights to list them needed
    found.batching.batch_window = 0.02
    found.networking.error_backoffs = [0.5, 1, 2, 5, 10, 20]
    found.watching.server_timeout = WATCH_SECONDS
    found.watching.client_timeout = WATCH_SECONDS + 30  # where a connection died unnoticed
    found.watching.connect_timeout = 10
    return found
