"""A node that runs nothing: the scheduler places pods on it, and it says of them what it is told.

The control plane is real; only the kubelet is played here. Each pod gets a loopback address of its
own where a stub worker answers `/health` and `/drain`, as a worker's server does. A worker that
spans nodes is ready while all that compute for it run.
"""

import asyncio
import contextlib
import datetime
import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

import httpx
from kube import Access, Object

from penstock_contract.labels import LEADER
from penstock_contract.worker_pod import CONTAINER

LABEL = "penstock.dev/test-node"
PORT = 8000


class Fate(StrEnum):
    """What becomes of a pod that is placed on the node."""

    READY = "ready"
    NEVER_READY = "never ready"
    CRASHES = "crash loop"
    NO_IMAGE = "image cannot be pulled"
    NO_VOLUME = "volume cannot be mounted"
    ALONE = "ready, but for the containers beside the worker, which crash"


class FakeNode:
    """Plays the kubelet of one node, in its own thread."""

    def __init__(self, access: Access, devices: Mapping[str, str] | None = None) -> None:
        self.devices = devices or {}
        """What it has beside plenty of what all nodes have."""
        self.name = f"fake-{random.getrandbits(32):08x}"
        self.fates: dict[str, Callable[[Object], Fate]] = {}
        """By namespace; without one, pods become ready."""
        self.graces: dict[str, float] = defaultdict(float)
        """By namespace: seconds from SIGTERM until the containers have ended."""
        self.drains: dict[str, list[str]] = defaultdict(list)
        """By pod uid: the methods that its `/drain` was called with."""
        self.exports: dict[str, Callable[[str], str]] = {}
        """By namespace: what the worker in a pod of this name exports at `/metrics`."""
        self._access = access
        self._pods: dict[str, Object] = {}
        self._started: dict[str, str] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By pod uid: one thing is said of it at a time, so that the last word stands."""
        self._addresses = (
            f"127.{random.randrange(20, 250)}.{b}.{c}" for b in range(256) for c in range(1, 255)
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-node")
        self._running: list[Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def template(self) -> Object:
        """Return the pool template that brings pods here, and nothing else does."""
        taint = {"key": LABEL, "operator": "Exists", "effect": "NoSchedule"}
        return {"nodeSelector": {LABEL: self.name}, "tolerations": [taint]}

    def __enter__(self) -> "FakeNode":
        self._thread.start()
        self._wait(self._register())
        self._running = [self._spawn(self._heartbeat()), self._spawn(self._watch())]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait(self._leave())
        finally:  # also without an API server: a thread that stays keeps Python from ending
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def decide(self, namespace: str, fate: Callable[[Object], Fate] | Fate) -> None:
        """Set what becomes of a namespace's pods, those that run included."""
        self.fates[namespace] = (lambda _pod: fate) if isinstance(fate, Fate) else fate
        self._wait(self._review(namespace))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        self._spawn(work).result(120)

    async def _register(self) -> None:
        self._http = httpx.AsyncClient(
            base_url=self._access.url,
            verify=self._access.verify,
            headers=self._access.headers,
            timeout=60,
            limits=httpx.Limits(max_connections=32),
        )
        taint = {"key": LABEL, "effect": "NoSchedule"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {LABEL: self.name}},
            "spec": {"taints": [taint]},
        }
        (await self._http.post("/api/v1/nodes", json=node)).raise_for_status()
        await self._report_ready()

    async def _report_ready(self) -> None:
        room = {"cpu": "10k", "memory": "100Ti", "pods": "20k", "ephemeral-storage": "100Ti"}
        room |= self.devices
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": _now(),
        }
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        await self._patch(f"/api/v1/nodes/{self.name}/status", {"status": status})

    async def _heartbeat(self) -> None:
        """Without heartbeats the node would be taken for dead and its pods evicted."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                await self._report_ready()
            await asyncio.sleep(10)

    async def _leave(self) -> None:
        for task in self._running:
            task.cancel()
        for server in self._servers.values():
            server.close()
        await self._http.delete(f"/api/v1/nodes/{self.name}")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                await self._follow()
            await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        selector = {"fieldSelector": f"spec.nodeName={self.name}"}
        listed = (await self._http.get("/api/v1/pods", params=selector)).raise_for_status().json()
        for pod in listed["items"]:
            self._see("ADDED", pod)
        start = listed["metadata"]["resourceVersion"]
        parameters = {**selector, "watch": "true", "resourceVersion": start}
        async with self._http.stream(
            "GET", "/api/v1/pods", params=parameters, timeout=httpx.Timeout(30, read=None)
        ) as events:
            events.raise_for_status()
            async for line in events.aiter_lines():
                event = _parse(line)
                if event["type"] == "ERROR":
                    return
                self._see(event["type"], event["object"])

    def _see(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if event == "DELETED":
            self._pods.pop(uid, None)
            if server := self._servers.pop(uid, None):
                server.close()
            self._tell_leader(pod)
            return
        self._pods[uid] = pod
        leaving = "deletionTimestamp" in pod["metadata"]
        was_leaving = known is not None and "deletionTimestamp" in known["metadata"]
        if leaving and not was_leaving:
            self._tell_leader(pod)
            self._go(self._terminate(pod))
        elif known is None and not leaving:
            self._go(self._run(pod))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _review(self, namespace: str) -> None:
        """Say again of every pod what its fate is now."""
        pods = [p for p in self._pods.values() if p["metadata"]["namespace"] == namespace]
        await asyncio.gather(*(self._say(pod) for pod in pods))

    async def _run(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        address = await self._listen(uid)
        self._started[uid] = _now()
        await self._say(pod, address)
        self._tell_leader(pod)

    async def _listen(self, uid: str) -> str:
        """Start the stub worker of a pod; return its address, which no other node's pod has."""
        for address in self._addresses:
            with contextlib.suppress(OSError):  # another node has begun in the same place
                self._servers[uid] = await asyncio.start_server(
                    lambda reader, writer: self._serve(uid, reader, writer), address, PORT
                )
                return address
        raise AssertionError("no address is left")

    def _tell_leader(self, follower: Object) -> None:
        """A group that broke or is whole again is what its leader notices."""
        name = follower["metadata"].get("labels", {}).get(LEADER)
        for pod in self._pods.values():
            if name and pod["metadata"]["name"] == name:
                self._go(self._say(pod))

    def _is_whole(self, leader: Object) -> bool:
        here = [
            pod
            for uid, pod in self._pods.items()
            if pod["metadata"].get("labels", {}).get(LEADER) == leader["metadata"]["name"]
            and uid in self._started
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return len(here) == _followers(leader)

    async def _say(self, pod: Object, address: str = "") -> None:
        async with self._turns[pod["metadata"]["uid"]]:
            await self._say_now(pod, address)

    async def _say_now(self, pod: Object, address: str) -> None:
        meta = pod["metadata"]
        decide = self.fates.get(meta["namespace"])
        fate = decide(pod) if decide else Fate.READY
        if self.drains[meta["uid"]][-1:] == ["POST"] and fate is Fate.READY:
            fate = Fate.NEVER_READY
        if fate is Fate.READY and not self._is_whole(pod):
            fate = Fate.NEVER_READY
        status = _status(pod, fate, self._started.get(meta["uid"], _now()))
        if address:
            status |= {"podIP": address, "podIPs": [{"ip": address}], "startTime": _now()}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        await self._patch(f"{path}/status", {"status": status})
        if fate is Fate.NO_VOLUME:
            events = f"/api/v1/namespaces/{meta['namespace']}/events"
            await self._call("POST", events, json=unmounted(pod))

    async def _terminate(self, pod: Object) -> None:
        meta = pod["metadata"]
        await asyncio.sleep(self.graces[meta["namespace"]])
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        await self._call("DELETE", path, json=body)

    async def _patch(self, path: str, patch: Object) -> None:
        headers = {"content-type": "application/strategic-merge-patch+json"}
        await self._call("PATCH", path, json=patch, headers=headers)

    async def _call(self, method: str, path: str, **options: Any) -> None:
        """Call until the API server has taken or refused it: nobody else says it again."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                status = (await self._http.request(method, path, **options)).status_code
                if status < 500 and status != 429:
                    return
            await asyncio.sleep(0.1)

    def _exported(self, uid: str) -> bytes:
        meta = self._pods[uid]["metadata"]
        tell = self.exports.get(meta["namespace"])
        return tell(meta["name"]).encode() if tell else b""

    async def _serve(
        self, uid: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request of a stub worker: `/health`, and `/drain` by POST and DELETE."""
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path = request.split(" ")[:2]
            if path == "/drain":
                self.drains[uid].append(method)
                if pod := self._pods.get(uid):
                    self._go(self._say(pod))
            draining = self.drains[uid][-1:] == ["POST"]
            status = "503 draining" if path == "/health" and draining else "200 OK"
            body = self._exported(uid) if path == "/metrics" else b"{}"
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _followers(pod: Object) -> int:
    """Return how many others compute for a pod."""
    if LEADER in pod["metadata"].get("labels", {}):
        return 0
    arguments = pod["spec"]["containers"][0].get("args", [])
    flag = next((one for one in ("--nodes", "--nnodes") if one in arguments), None)
    return int(arguments[arguments.index(flag) + 1]) - 1 if flag else 0


def _status(pod: Object, fate: Fate, started: str) -> Object:
    names = [c["name"] for c in pod["spec"]["containers"]]
    image = pod["spec"]["containers"][0]["image"]
    own = Fate.READY if fate is Fate.ALONE else fate
    fates = {name: own if name == CONTAINER else BESIDE.get(fate, fate) for name in names}
    ready = all(one is Fate.READY for one in fates.values())
    truth = "True" if ready else "False"
    containers = [_container(name, image, one, started) for name, one in fates.items()]
    return {
        "phase": "Pending" if fate in (Fate.NO_IMAGE, Fate.NO_VOLUME) else "Running",
        "conditions": [
            {
                "type": kind,
                "status": truth,
                "reason": None if ready else "ContainersNotReady",
                "lastTransitionTime": _now(),
            }
            for kind in ("Ready", "ContainersReady")
        ]
        + [{"type": "Initialized", "status": "True", "lastTransitionTime": _now()}],
        "containerStatuses": containers,
    }


def _container(name: str, image: str, fate: Fate, started: str) -> Object:
    state, restarts = _container_state(fate, started)
    return {
        "name": name,
        "ready": fate is Fate.READY,
        "started": fate is Fate.READY,
        "restartCount": restarts,
        "image": image,
        "imageID": "",
        "state": dict.fromkeys(("waiting", "running", "terminated")) | state,
        "lastState": CRASHED if restarts else {},
    }


BESIDE = {Fate.NEVER_READY: Fate.READY, Fate.ALONE: Fate.CRASHES}
"""What becomes of the containers beside a worker, where it is not the same."""
CRASHED = {
    "terminated": {"exitCode": 1, "reason": "Error", "startedAt": None, "finishedAt": None},
}


def unmounted(pod: Object) -> Object:
    """Return the Event by which kubelet says that a volume cannot be mounted."""
    meta = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{random.getrandbits(40):010x}"},
        "involvedObject": {"kind": "Pod", "uid": meta["uid"], "namespace": meta["namespace"]},
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "tls" : secret "tls" not found',
        "type": "Warning",
        "lastTimestamp": _now(),
    }


def _container_state(fate: Fate, started: str) -> tuple[Object, int]:
    if fate is Fate.CRASHES:
        message = "back-off 5m0s restarting failed container"
        return {"waiting": {"reason": "CrashLoopBackOff", "message": message}}, 6
    if fate is Fate.NO_IMAGE:
        message = "Back-off pulling image"
        return {"waiting": {"reason": "ImagePullBackOff", "message": message}}, 0
    if fate is Fate.NO_VOLUME:
        return {"waiting": {"reason": "ContainerCreating"}}, 0
    return {"running": {"startedAt": started}}, 0


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(line: str) -> Object:
    event: Object = json.loads(line)
    return event
