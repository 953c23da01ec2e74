"""Measures what the gateway costs between clients and workers, beside other proxies and routers.

    python benchmarks/gateway.py --peers nginx,vllm-router,sglang-router [--quick]

Stub workers and the load generator are C programs, compiled here, so that neither limits what is
measured. All routers run all the time and are measured in turns, in a new order each round; a
figure is the median over the rounds. Prints JSON lines: CPU µs per request (small, 8k), what is
added to the latency at 100 requests a second and to the time to the first event, streamed chunks a
second at saturation, CPU µs per chunk, and memory growth by 100 clients that never read.

Python itself is half of what our gateway computes, so it matters how that was built: the image's is
optimised by profile (PGO), as Debian's is and most of pyenv's are not. `--python` names one of this
version that runs our gateway.

Ours has every feature on: validation, admission, prefix routing, retries, the resume journal and
metrics; the routers route by prefix (`cache_aware`), nginx takes turns.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import report
from routers import OURS, PEERS, Router, compiled, free_port, start

NATIVE = Path(__file__).parent / "native"
WORKERS = 4
UNITS = {
    "cpu_us_per_request": "us",
    "added_latency_us": "us",
    "added_ttft_us": "us",
    "chunks_per_second": "1/s",
    "cpu_us_per_chunk": "us",
    "stuck_clients_growth_mb": "MB",
}
WARM = 0.5
"""Seconds of streams that are read, before those that are not: what a stream needs at all."""
LIMITS = {("cpu_us_per_request", "small", "vllm-router"): 0.8}
"""Ratios that must hold."""

Figures = dict[tuple[str, str], float]
"""By metric and case."""
Told = dict[str, float]
"""What the load generator prints."""


class Bench:
    """The load generator, and the stub workers behind everything."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.ports = [free_port() for _ in range(WORKERS)]
        self.seconds = seconds
        self._load = compiled(NATIVE / "load.c", folder)
        stub = compiled(NATIVE / "stub_worker.c", folder)
        self._stub = subprocess.Popen([stub, *map(str, self.ports)])
        self._bodies = write_bodies(folder)

    def stop(self) -> None:
        """End the stub workers."""
        self._stub.terminate()
        self._stub.wait()

    def load(self, address: str, bodies: str, mode: str, number: int, seconds: float) -> Told:
        """Run the load generator; see native/load.c."""
        told = ["/v1/chat/completions", str(self._bodies[bodies]), mode, str(number), str(seconds)]
        command = [str(self._load), address, *told]
        found: Told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if mode != "stuck" and found["errors"]:
            sys.stderr.write(f"{address}: {found['errors']} of {found['requests']} failed\n")
        return found

    def direct(self) -> Told:
        """Return the latencies of a worker without anything before it."""
        address = f"127.0.0.1:{self.ports[0]}"
        plain = self.load(address, "small", "open", 100, self.seconds)
        stream = self.load(address, "short stream", "open", 50, self.seconds)
        return {"p50": plain["end_p50"], "p99": plain["end_p99"], "ttft": stream["first_p50"]}

    def measure(self, router: Router) -> Figures:
        """Return all figures of one router but memory."""
        direct = self.direct()
        found: Figures = {}
        for case in ("small", "8k"):
            cpu, told = self._cpu(router, case, "closed", 32)
            found["cpu_us_per_request", case] = cpu / told["requests"] * 1e6
        plain = self.load(router.address, "small", "open", 100, self.seconds)
        for quantile in ("p50", "p99"):
            found["added_latency_us", quantile] = plain[f"end_{quantile}"] - direct[quantile]
        stream = self.load(router.address, "short stream", "open", 50, self.seconds)
        found["added_ttft_us", ""] = stream["first_p50"] - direct["ttft"]
        cpu, told = self._cpu(router, "stream", "closed", 200)
        found["chunks_per_second", ""] = told["events"] / told["seconds"]
        found["cpu_us_per_chunk", ""] = cpu / told["events"] * 1e6
        return found

    def stuck(self, router: Router) -> float:
        """Return the megabytes by which 100 clients that do not read make a router grow."""
        before = router.memory()
        path = "/v1/chat/completions"
        command = [
            str(self._load),
            router.address,
            path,
            str(self._bodies["flood"]),
            "stuck",
            "100",
        ]
        with subprocess.Popen([*command, str(2 * self.seconds)], stdout=subprocess.DEVNULL):
            time.sleep(1.8 * self.seconds)
            return (router.memory() - before) / 1e6

    def _cpu(self, router: Router, bodies: str, mode: str, number: int) -> tuple[float, Told]:
        before = router.cpu_seconds()
        told = self.load(router.address, bodies, mode, number, self.seconds)
        return router.cpu_seconds() - before, told


def write_bodies(folder: Path) -> dict[str, Path]:
    """Write request bodies; the stub's parameters are in fields that every router passes on."""
    words = random.Random(1)

    def text(size: int) -> str:
        return " ".join(
            words.choice(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"])
            for _ in range(size // 6)
        )

    system = {"role": "system", "content": text(2000)}
    ask = [{"role": "user", "content": "How many were there?"}]
    bodies: dict[str, list[dict[str, object]]] = {
        "small": [{"messages": ask}],
        "8k": [{"messages": [system, {"role": "user", "content": text(6000)}]} for _ in range(256)],
        "short stream": [_stream(ask, 2, 1000)],
        "stream": [_stream(ask, 100, 5000)],
        "flood": [_stream(ask, 10**9, 1)],
    }
    found = {}
    for name, requests in bodies.items():
        found[name] = folder / name
        with found[name].open("wb") as file:
            for request in requests:
                body = json.dumps({"model": "m", **request}).encode()
                file.write(b"%d\n%b" % (len(body), body))
    return found


def _stream(messages: list[dict[str, str]], events: int, interval: int) -> dict[str, object]:
    return {
        "messages": messages,
        "stream": True,
        "max_completion_tokens": events,
        "seed": interval,
    }


def main() -> None:
    """Measure and print."""
    options = _options()
    peers = [name for name in options.peers.split(",") if name]
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, 4.0)
    seen: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        bench = Bench(folder, seconds)
        stack.callback(bench.stop)
        routers = start([OURS, *peers], bench.ports, folder, stack, options.python)
        for number in range(rounds):
            for router in random.Random(number).sample(routers, len(routers)):
                for key, value in bench.measure(router).items():
                    seen[router.name][key].append(value)
                    sys.stderr.write(f"{router.name}: {' '.join(key)} {value:.1f}\n")
        for rival in (OURS, *peers) * rounds:
            grown = _stuck(bench, rival, folder, options.python)
            seen[rival]["stuck_clients_growth_mb", ""].append(grown)
            sys.stderr.write(f"{rival}: stuck_clients_growth_mb {grown:.1f}\n")
    for (metric, case), values in seen[OURS].items():
        ours = statistics.median(values)
        for rival in peers or [None]:
            theirs = statistics.median(seen[rival][metric, case]) if rival else None
            limit = LIMITS.get((metric, case, rival or ""))
            figure = report.line(
                "gateway", metric, case, UNITS[metric], ours,
                peer=rival, peer_value=theirs, limit=limit, rounds=rounds,
            )  # fmt: skip
            report.tell(figure, keep=not options.quick)


def _stuck(bench: Bench, name: str, folder: Path, python: str) -> float:
    """Return by how much stuck clients make a router grow that has served few others before.

    After more, memory that had been used and freed takes in what they leave behind.
    """
    own = folder / "anew"
    own.mkdir(exist_ok=True)
    with ExitStack() as alone:
        (router,) = start([name], bench.ports, own, alone, python)
        bench.load(router.address, "short stream", "closed", 100, WARM)
        return bench.stuck(router)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peers", default="", help=f"separated by commas, of {', '.join(PEERS)}")
    parser.add_argument("--python", type=_same_version, default=sys.executable, help="runs ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round")
    return parser.parse_args()


def _same_version(python: str) -> str:
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"]
    found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    if found != sysconfig.get_config_var("SOABI"):
        raise argparse.ArgumentTypeError(f"{python} is of another version: {found}")
    return python


if __name__ == "__main__":
    main()
