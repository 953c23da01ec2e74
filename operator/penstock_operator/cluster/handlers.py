"""kopf follows the API's own objects; its handlers only keep the cache true and wake the loop.

No daemons, no annotations, no finalizers: deletion never waits for an operator, and a quiescent
object is never written. kopf has a thread and an event loop of its own: it takes the signals of the
main thread otherwise, and cancels every task that it finds in its loop when it stops.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from penstock_contract.labels import GROUP, VERSION
from penstock_operator.cluster.cache import Cache, Key
from penstock_operator.cluster.kinds import ENGINE_POOL, INFERENCE_DEPLOYMENT
from penstock_operator.manifests import Object

Changed = Callable[[set[Key]], None]


async def follow(cache: Cache, changed: Changed, namespaces: Sequence[str]) -> None:
    """Follow InferenceDeployments and EnginePools until cancelled.

    Raises:
        RuntimeError: kopf gave up.
    """
    loop = asyncio.get_running_loop()
    stop, ended = threading.Event(), asyncio.Event()

    def seen(kind: str, event: str, found: Object) -> None:
        meta = found["metadata"]
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

    for kind in (INFERENCE_DEPLOYMENT, ENGINE_POOL):
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
    found.watching.server_timeout = 290
    found.watching.connect_timeout = 10
    return found
