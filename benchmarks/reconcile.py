"""What the operator costs a cluster: calls, latency and memory with 1,000 InferenceDeployments.

The API server, controllers and scheduler are real: the ones that KUBECONFIG names, or those that
the script in PENSTOCK_TEST_CLUSTER starts. The node is played by the tests' own, so no engine runs.
Calls are counted by a proxy in front of the API server, latency is read from the status that the
API server shows, memory from the operator's process.

    python benchmarks/reconcile.py [--quick] [--keep]
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from report import ROOT, line, tell

sys.path.insert(0, str(ROOT / "tests" / "support"))
import cluster
from fake_node import FakeNode
from kube import Access, Kube, Object
from operated import Site, site
from waiting import eventually

DEPLOYMENT = "penstock.dev/deployment"
POOL = {"name": "default", "replicas": 1}
RESYNC = 20
"""Seconds; far more often than users would, so that a quiescent minute has three of them."""


def main() -> None:
    """Measure and print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 objects and a short window")
    parser.add_argument("--keep", action="store_true", help="append to results/reconcile.jsonl")
    options = parser.parse_args()
    if not cluster.available():
        raise SystemExit(cluster.MISSING)
    count, window, changes = (40, 15, 20) if options.quick else (1000, 60, 200)
    with crowd(count) as (found, created):
        say(f"{count} created and settled in {created:.0f} s")
        for metric, case, unit, value, limit in figures(found, count, window, changes):
            figure = line("reconcile", metric, case, unit, value, limit=limit)
            tell(figure, keep=options.keep)
            say(f"{metric} ({case}): {value:.3f} {unit}")


@contextmanager
def crowd(count: int) -> Iterator[tuple[Site, float]]:
    """Yield a site with `count` settled deployments, and the seconds that took."""
    with (
        tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder,
        cluster.control_plane(Path(folder)) as kubeconfig,
        FakeNode(access := Access.read(kubeconfig)) as node,
        site(access, node, Path(folder), "--resync", f"{RESYNC}s") as found,
    ):
        found.operator.wait_ready()
        began = time.monotonic()
        for number in range(count):
            found.kube.apply(found.manifest(POOL, name=name(number)))
        settle(found.kube, count)
        found.quiet_for(5, within=600)
        yield found, time.monotonic() - began


def figures(
    found: Site, count: int, window: int, changes: int
) -> Iterator[tuple[str, str, str, float, float | None]]:
    """Yield metric, case, unit, value and limit."""
    case = f"{count} deployments"
    before = len(found.proxy.writes)
    time.sleep(window)
    writes = len(found.proxy.writes) - before
    yield "writes_per_quiescent_minute", case, "writes", writes * 60 / window, 0
    latencies = sorted(latency(found, count, changes))
    p99 = latencies[min(len(latencies) - 1, round(0.99 * len(latencies)))]
    yield "reconcile_p50_seconds", case, "s", statistics.median(latencies), None
    yield "reconcile_p99_seconds", case, "s", p99, 2
    yield "rss_mb", case, "MB", resident_mb(found.operator.pid), 300
    for verb, calls in calls_per_change(found).items():
        yield "api_calls", verb, "calls", calls, None


def latency(found: Site, count: int, changes: int) -> list[float]:
    """Return, for changes of random deployments, the seconds until the status told of them."""
    seen = Generations(found.kube)
    chance = random.Random(1)
    waiting: dict[str, tuple[int, float]] = {}
    with seen:
        for number in chance.sample(range(count), min(changes, count)):
            spec = found.manifest(POOL, name=name(number), queue={"maxRequests": 7})
            began = time.monotonic()
            generation = found.kube.apply(spec)["metadata"]["generation"]
            waiting[name(number)] = generation, began
            time.sleep(0.1)
        return [seen.when(key, wanted) - began for key, (wanted, began) in waiting.items()]


class Generations:
    """When the API server first showed that a status describes a generation."""

    def __init__(self, kube: Kube) -> None:
        self._kube = Kube(kube.access, kube.namespace)
        self._times: dict[tuple[str, int], float] = {}
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Generations":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._kube.http.close()

    def when(self, key: str, generation: int) -> float:
        """Return the moment; wait for it for at most two minutes."""
        with self._change:
            if not self._change.wait_for(lambda: (key, generation) in self._times, 120):
                raise SystemExit(f"{key}: no status for generation {generation} in two minutes")
            return self._times[key, generation]

    def _follow(self) -> None:
        kube = self._kube
        path = kube.path("InferenceDeployment")
        start = kube.http.get(path).json()["metadata"]["resourceVersion"]
        parameters = {"watch": "true", "resourceVersion": start}
        with (
            contextlib.suppress(httpx.HTTPError),  # closed at the end
            kube.http.stream("GET", path, params=parameters, timeout=None) as events,
        ):
            for text in events.iter_lines():
                self._see(text)

    def _see(self, text: str) -> None:
        found = json.loads(text)["object"]
        generation = found.get("status", {}).get("observedGeneration")
        with self._change:
            self._times.setdefault((found["metadata"]["name"], generation), time.monotonic())
            self._change.notify_all()


def calls_per_change(found: Site, rounds: int = 5) -> dict[str, float]:
    """Return the calls of creating, updating and deleting one deployment, its workers included."""
    totals = {"create": 0, "update": 0, "delete": 0}
    for number in range(rounds):
        one = name(number, "single")
        before = calls(found)
        for verb in totals:
            change(found, verb, one)
            found.quiet_for(2)
            after = calls(found)
            totals[verb] += after - before
            before = after
    return {verb: total / rounds for verb, total in totals.items()}


def change(found: Site, verb: str, one: str) -> None:
    """Create, update or delete a deployment and wait until that is done."""
    if verb == "delete":
        found.kube.delete("InferenceDeployment", one)
        eventually(lambda: not found.kube.list("Pod", f"{DEPLOYMENT}={one}"), f"{one} gone")
    else:
        image = "worker:1" if verb == "create" else "worker:2"
        found.kube.apply(found.manifest(POOL, name=one, image=image))
        eventually(lambda: found.settled(one), f"{verb} of {one}")


def calls(found: Site) -> int:
    """Return the calls so far, without those that keep the lease."""
    return sum(call.resource != "leases" for call in found.proxy.calls)


def settle(kube: Kube, count: int) -> None:
    """Wait until so many deployments say that they serve."""

    def serving() -> bool:
        items = kube.list("InferenceDeployment")
        ready = sum(map(ready_now, items))
        say(f"\r{ready} of {count} ready", end="")
        return ready == count

    eventually(serving, "all ready", within=1800, every=5)
    say("")


def ready_now(item: Object) -> bool:
    """Return whether a deployment says that it serves."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def name(number: int, prefix: str = "chat") -> str:
    """Return the name of one of many deployments."""
    return f"{prefix}-{number}"


def say(text: str, end: str = "\n") -> None:
    """Tell a person."""
    sys.stderr.write(text + end)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
