"""`/metrics`, `/healthz`, `/readyz` and `/explain` of the operator."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


async def serve(
    host: str,
    port: int,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    explain: Callable[[str, str], str | None],
) -> web.AppRunner:
    """Start serving; the caller cleans the runner up.

    `explain` returns why the pools of a deployment, named by namespace and name, have their sizes.

    Raises:
        OSError: the port is taken.
    """

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        well = ready()
        return web.Response(text="ok\n" if well else "starting\n", status=200 if well else 503)

    async def explanation(request: web.Request) -> web.Response:
        found = explain(request.match_info["namespace"], request.match_info["name"])
        if found is None:
            return web.Response(text="no pool of it is sized by this operator\n", status=404)
        return web.Response(text=f"{found}\n")

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/explain/{namespace}/{name}", explanation),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
