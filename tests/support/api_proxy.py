"""A proxy in front of the API server that records every call and breaks what it is told to break.

The operator under test gets a kubeconfig that leads here. Faults are data: which calls they hit,
and whether the call is refused, lost before it is sent, or committed without an answer. Watches can
be cut, expired, and their events dropped, doubled or swapped.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from kube import Access

WRITES = {"create", "update", "patch", "delete", "deletecollection"}
HOP_BY_HOP = {
    "host",
    "connection",
    "transfer-encoding",
    "content-length",
    "authorization",
    "keep-alive",
}


@dataclass(frozen=True)
class Call:
    """One request as RBAC sees it."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    agent: str
    at: float
    """Monotonic seconds."""
    body: Any = None

    @property
    def is_write(self) -> bool:
        """Whether it changes something, other than the lease's renewal."""
        return self.verb in WRITES and self.resource != "leases"

    @property
    def grant(self) -> tuple[str, str, str]:
        """Return group, resource/subresource and verb, as a role grants them."""
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return self.group, resource, self.verb

    def __str__(self) -> str:
        resource = "/".join(filter(None, (self.resource, self.name, self.subresource)))
        return f"{self.verb} {resource}"


@dataclass
class Fault:
    """What happens to the next `times` calls that `where` picks."""

    where: Callable[[Call], bool]
    times: int = 1
    status: int | None = None
    """Answer with this status instead of sending the call on."""
    send: bool = True
    """False: the call never reaches the API server."""
    answer: bool = True
    """False: the connection is cut where the answer would be."""
    delay: float = 0.0
    """Seconds before anything else happens."""
    first: Callable[[Call], None] = lambda call: None
    """Called before the call is sent on."""
    then: Callable[[Call], None] = lambda call: None
    """Called before the answer (or the cut)."""
    hits: list[Call] = field(default_factory=list)


WatchEdit = Callable[[Call, bytes], list[bytes]]
"""What becomes of a watch event (one line of JSON): none, one or more lines."""


class ApiProxy:
    """Runs in its own thread; its knobs may be turned at any time."""

    def __init__(self, access: Access, token: str | None = None) -> None:
        self.calls: list[Call] = []
        self.answers: list[tuple[Call, int]] = []
        self.faults: list[Fault] = []
        self.edit: WatchEdit = lambda _call, line: [line]
        self.delay = 0.0
        self.away = False
        self.url = ""
        headers = access.headers if token is None else {"authorization": f"Bearer {token}"}
        self._access, self._headers = access, headers
        self._watches: set[asyncio.Task[None]] = set()
        self._expire: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy")

    def __enter__(self) -> "ApiProxy":
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads to the proxy."""
        cluster = {"name": "proxy", "cluster": {"server": self.url}}
        user = {"name": "test", "user": {"token": "replaced-by-the-proxy"}}
        context = {"name": "test", "context": {"cluster": "proxy", "user": "test"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "users": [user],
            "contexts": [context],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    @property
    def writes(self) -> list[Call]:
        """Calls so far that change something, the lease apart."""
        return [call for call in self.calls if call.is_write]

    def inject(self, fault: Fault) -> Fault:
        """Let a fault act from now on."""
        self.faults.append(fault)
        return fault

    def cut_watches(self) -> None:
        """End every running watch without a word."""
        self._loop.call_soon_threadsafe(self._cut)

    def expire_watches(self) -> None:
        """End every running watch with 410 Gone: what it knew is too old."""
        self._loop.call_soon_threadsafe(self._gone)

    def go_away(self) -> None:
        """Cut everything and accept nothing until `come_back`."""
        self.away = True
        self.cut_watches()

    def come_back(self) -> None:
        """Serve again."""
        self.away = False

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _start(self) -> None:
        self._session = ClientSession(
            connector=TCPConnector(limit=0, ssl=self._access.verify),
            timeout=ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        self._cut()
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.sleep(0.25)  # TLS connections close in their own time

    def _cut(self) -> None:
        for watch in list(self._watches):
            watch.cancel()

    def _gone(self) -> None:
        self._expire |= self._watches
        self._cut()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = classify(request.method, request.rel_url, request.headers, body)
        self.calls.append(call)
        fault = self._fault(call)
        if self.away:
            return _cut_off(request)
        if self.delay or (fault and fault.delay):
            await asyncio.sleep(self.delay + (fault.delay if fault else 0))
        try:
            if call.verb == "watch" and fault is None:
                return await self._watch(request, call)
            if fault is not None:
                await asyncio.to_thread(fault.first, call)
            return await self._answer(request, call, body, fault)
        except (ClientError, ConnectionError):
            return _cut_off(request)

    async def _answer(
        self, request: web.Request, call: Call, body: bytes, fault: Fault | None
    ) -> web.StreamResponse:
        if fault and fault.status:
            self.answers.append((call, fault.status))
            await asyncio.to_thread(fault.then, call)
            return _status(fault.status)
        if fault is None or fault.send:
            answer = await self._forward(request, body)
            self.answers.append((call, answer.status))
        if fault is not None:
            await asyncio.to_thread(fault.then, call)
            if not (fault.send and fault.answer):
                return _cut_off(request)
        return answer

    def _fault(self, call: Call) -> Fault | None:
        for fault in self.faults:
            if len(fault.hits) < fault.times and fault.where(call):
                fault.hits.append(call)
                return fault
        return None

    def _upstream_headers(self, request: web.Request) -> dict[str, str]:
        kept = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        return {**kept, **self._headers, "accept-encoding": "identity"}

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        async with self._session.request(
            request.method,
            self._access.url + request.raw_path,
            data=body or None,
            headers=self._upstream_headers(request),
        ) as upstream:
            content = await upstream.read()
            kind = upstream.headers.get("content-type", "application/json")
            return web.Response(
                status=upstream.status, body=content, headers={"content-type": kind}
            )

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        async with self._session.get(
            self._access.url + request.raw_path, headers=self._upstream_headers(request)
        ) as upstream:
            self.answers.append((call, upstream.status))
            answer = web.StreamResponse(status=upstream.status)
            answer.content_type = "application/json"
            await answer.prepare(request)
            relay = asyncio.ensure_future(self._relay(upstream.content.iter_any(), call, answer))
            self._watches.add(relay)
            await asyncio.wait({relay})
            self._watches.discard(relay)
            if relay in self._expire:
                self._expire.discard(relay)
                await answer.write(json.dumps(GONE).encode() + b"\n")
            if self.away:
                return _cut_off(request)
            await answer.write_eof()
            return answer

    async def _relay(self, chunks: Any, call: Call, answer: web.StreamResponse) -> None:
        rest = b""
        try:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    for out in self.edit(call, line):
                        await answer.write(out + b"\n")
        except (ClientError, ConnectionError):
            return


GONE = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "Expired",
        "message": "too old resource version",
        "code": 410,
    },
}
REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError"}


def _status(code: int) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": REASONS.get(code, "Unknown"),
        "message": "a fault that the test put in",
        "code": code,
    }
    headers = {"retry-after": "1"} if code == 429 else {}
    return web.json_response(body, status=code, headers=headers)


def _cut_off(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def classify(method: str, url: Any, headers: Any, body: bytes) -> Call:
    """Return what a request asks for."""
    parts = [part for part in url.path.split("/") if part]
    group, rest = "", []
    if parts[:1] == ["api"]:
        rest = parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 2:
        group, rest = parts[1], parts[3:]
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, sub = (*rest, "", "", "")[:3]
    return Call(
        _verb(method, name, url.query),
        group,
        resource,
        sub,
        namespace,
        name,
        headers.get("user-agent", ""),
        time.monotonic(),
        _json(body),
    )


def _json(body: bytes) -> Any:
    """Server-side apply may send YAML; JSON is YAML too."""
    return yaml.safe_load(body) if body else None


def _verb(method: str, name: str, query: Any) -> str:
    if method == "GET":
        if query.get("watch") in ("true", "1", "True"):
            return "watch"
        return "get" if name else "list"
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    return {"POST": "create", "PUT": "update", "PATCH": "patch"}[method]
