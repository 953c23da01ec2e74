"""A gateway as the operator sees it: it tells its view of the workers, and confirms drains.

It watches the pods at the API server itself, as the gateway does, so that what it confirms is what
was really written, and its answer costs nothing.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from kube import Kube, Object

DRAINING = "penstock.dev/draining"
DEPLOYMENT = "penstock.dev/deployment"
WATCH_SECONDS = 5
"""After which the API server ends a watch, and the next one begins."""


class StubGateway:
    """Serves `/internal/workers` and `/health` on a free port."""

    def __init__(self, kube: Kube) -> None:
        self.confirms = True
        """Whether it sees that workers are draining."""
        self.tell: Callable[[Object], Object] = lambda _pod: {}
        """What it tells of a pod's worker beyond its state."""
        self.exports: Callable[[], str] = lambda: ""
        """What it exports at `/metrics`."""
        self.confirmed: set[str] = set()
        """Uids of the workers that it has told to be draining."""
        self._kube = Kube(kube.access, kube.namespace)
        self._pods: dict[str, Object] = {}
        self._version = ""
        self._ends = threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "StubGateway":
        self._thread.start()
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # what watches notices when its watch ends

    def workers(self) -> Object:
        """Return the answer of `/internal/workers`."""
        pods = self._pods.copy()
        return {"workers": {uid: self._worker(pod) for uid, pod in pods.items() if _ready(pod)}}

    def _follow(self) -> None:
        while not self._ends.is_set():
            try:
                if not self._version:
                    self._list()
                self._see_changes()
            except httpx.HTTPError:
                self._ends.wait(0.05)
        self._kube.http.close()

    def _list(self) -> None:
        answer = self._kube.http.get(self._kube.path("Pod"), params={"labelSelector": DEPLOYMENT})
        found = answer.raise_for_status().json()
        self._pods = {pod["metadata"]["uid"]: pod for pod in found["items"]}
        self._version = found["metadata"]["resourceVersion"]

    def _see_changes(self) -> None:
        asked = {"watch": "true", "labelSelector": DEPLOYMENT, "resourceVersion": self._version}
        asked["timeoutSeconds"] = str(WATCH_SECONDS)
        with self._kube.http.stream("GET", self._kube.path("Pod"), params=asked) as events:
            if events.is_error:
                self._version = ""  # it may be too old: begin anew
                events.raise_for_status()
            for line in events.iter_lines():
                self._see(json.loads(line))

    def _see(self, event: Object) -> None:
        if event["type"] == "ERROR":
            self._version = ""  # too old: begin anew
            raise httpx.ReadError("gone")
        pod = event["object"]
        self._version = pod["metadata"]["resourceVersion"]
        if event["type"] == "DELETED":
            self._pods.pop(pod["metadata"]["uid"], None)
        else:
            self._pods[pod["metadata"]["uid"]] = pod

    def _worker(self, pod: Object) -> Object:
        uid = pod["metadata"]["uid"]
        draining = self.confirms and DRAINING in pod["metadata"].get("annotations", {})
        if draining:
            self.confirmed.add(uid)
        idle = {"in_flight": 0, "outstanding_tokens": 0, "requests": 0, "failures": 0}
        state = "Draining" if draining else "Ready"
        return {"state": state, **idle, **self.tell(pod)}


def _ready(pod: Object) -> bool:
    """A worker that drains is not ready any more and still known."""
    return bool(pod.get("status", {}).get("podIP"))


def _handler(gateway: StubGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found: Any = gateway.workers() if self.path == "/internal/workers" else {}
            body = json.dumps(found).encode()
            if self.path == "/metrics":
                body = gateway.exports().encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
