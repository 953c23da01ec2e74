"""Starts what stands between clients and workers: our gateway, nginx, and others' routers."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import peer

import penstock_gateway
from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetWorker
from penstock_gateway.build import build

OURS = "penstock"
TWO_OF_OURS = "penstock-2"
"""The same with two processes."""
MODEL = FleetModel(name="m", deployment="d")
"""That ours serves, where nothing else is wanted."""
_MAIN = "from penstock_gateway.cli import main; main()"
_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  upstream workers {{ {balancing} {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


class Router:
    """A process, and how much it has used.

    Args:
        name: which one.
        workers: their ports.
        folder: for what it writes.
        python: runs our gateway.
        model: that ours serves.
    """

    def __init__(
        self,
        name: str,
        workers: Sequence[int],
        folder: Path,
        python: str = sys.executable,
        model: FleetModel = MODEL,
    ) -> None:
        self.name = name
        self.port = free_port()
        self._log = (folder / f"{name}.log").open("w")
        command, environment = _COMMANDS[name](self.port, workers, folder), dict(os.environ)
        if name in (OURS, TWO_OF_OURS):
            _write_fleet(folder, workers, model)
            command = [python, "-c", _MAIN, *command]
            own = [entry for entry in sys.path[1:] if not entry.startswith(sys.base_prefix)]
            environment["PYTHONPATH"] = os.pathsep.join([str(_compiled_gateway()), *own])
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=environment
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Return the processor time that it and its children have used."""
        ticks = 0
        for pid in self._family():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Return the bytes that it and its children keep resident."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._family())
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _family(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found += map(int, children)
        return found

    def _wait(self) -> None:
        """Wait until a request comes through."""
        body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"?"}]}'
        request = urllib.request.Request(
            f"http://{self.address}/v1/chat/completions",
            body,
            {"content-type": "application/json"},
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).read()  # noqa: S310
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} does not serve: {error}") from error
                time.sleep(0.2)


def start(
    names: Sequence[str],
    workers: Sequence[int],
    folder: Path,
    stack: ExitStack,
    python: str = sys.executable,
) -> list[Router]:
    """Start routers in front of workers on these ports; they end with `stack`."""
    found = []
    for name in names:
        router = Router(name, workers, folder, python)
        stack.callback(router.stop)
        found.append(router)
    return found


def compiled(source: Path, folder: Path) -> Path:
    """Return the program that a C file makes."""
    program = folder / source.stem
    compiler = shutil.which("cc") or sys.exit("a C compiler is needed: apt-get install gcc")
    subprocess.run([compiler, "-O2", "-o", program, source], check=True)
    return program


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_fleet(folder: Path, workers: Sequence[int], model: FleetModel) -> None:
    Fleet(
        generation=1,
        models=(model,),
        workers=tuple(
            FleetWorker(
                id=f"w{n}",
                url=f"http://127.0.0.1:{n}",
                deployment=model.deployment,
                pool="p",
                role=Role.UNIFIED,
            )
            for n in workers
        ),
    ).write(folder / "fleet.json")


def _penstock(port: int, workers: Sequence[int], folder: Path) -> list[str]:
    del workers  # they are in the file
    fleet = str(folder / "fleet.json")
    return ["--fleet", fleet, "--port", str(port), "--log-level", "warning"]


def _two_processes(port: int, workers: Sequence[int], folder: Path) -> list[str]:
    return [*_penstock(port, workers, folder), "--processes", "2"]


def _compiled_gateway() -> Path:
    """Return the folder of our gateway as its image has it; compiled unless it is there."""
    sources = sorted(Path(penstock_gateway.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    folder = peer.CACHE / f"gateway-{digest[:16]}"
    if not folder.exists():
        sys.stderr.write(f"Compiling the gateway into {folder} (a minute)\n")
        build(folder)
    return folder


def _nginx(port: int, workers: Sequence[int], folder: Path, balancing: str = "") -> list[str]:
    unpacked = peer.CACHE / "nginx"
    program = unpacked / "usr/sbin/nginx"
    if not program.exists():
        sys.stderr.write(f"Unpacking Debian's nginx into {unpacked}\n")
        unpacked.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "nginx"], cwd=unpacked, check=True)
        (package,) = unpacked.glob("nginx_*.deb")
        subprocess.run(["dpkg", "-x", package, unpacked], check=True)
    servers = "".join(f"server 127.0.0.1:{worker};" for worker in workers)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, servers=servers, port=port, balancing=balancing))
    return [str(program), "-p", str(folder), "-c", str(config)]


def _least_connections(port: int, workers: Sequence[int], folder: Path) -> list[str]:
    return _nginx(port, workers, folder, "least_conn;")


def _cache_aware(name: str, *command: str, port: int, workers: Sequence[int]) -> list[str]:
    program = Path(peer.python_of(name)).with_name(name)
    urls = [f"http://127.0.0.1:{worker}" for worker in workers]
    return [
        str(program), *command, "--worker-urls", *urls, "--policy", "cache_aware",
        "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()),
        "--log-level", "warn",
    ]  # fmt: skip


def _vllm(port: int, workers: Sequence[int], _: Path) -> list[str]:
    command = _cache_aware("vllm-router", port=port, workers=workers)
    return [*command[:-1], "warning"]


def _sglang(port: int, workers: Sequence[int], _: Path) -> list[str]:
    return _cache_aware("sglang-router", "launch", port=port, workers=workers)


_COMMANDS = {
    OURS: _penstock,
    TWO_OF_OURS: _two_processes,
    "nginx": _nginx,
    "nginx-least-conn": _least_connections,
    "vllm-router": _vllm,
    "sglang-router": _sglang,
}
PEERS = tuple(name for name in _COMMANDS if name != OURS)
