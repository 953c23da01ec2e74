"""Two processes of a real vLLM as one replica that spans nodes, started as their pods are."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from deployments import deployment
from ports import free_port
from vllm_program import NEEDS_VLLM, environment
from waiting import eventually

from penstock_operator.manifests import Place, Settings, follower, workload
from penstock_operator.plan import plan

pytestmark = NEEDS_VLLM

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
PATIENCE = 400.0


@dataclass
class Group:
    """A leader and its follower."""

    leader: subprocess.Popen[bytes]
    follower: subprocess.Popen[bytes]
    port: int

    @property
    def runs(self) -> bool:
        return self.leader.poll() is None and self.follower.poll() is None

    def ask(self) -> httpx.Response:
        question = {"model": "pydoc", "prompt": "A list is", "max_tokens": 8, "temperature": 0}
        return plain_http.post(f"http://{HOST}:{self.port}/v1/completions", json=question)

    def answers(self) -> bool:
        assert self.runs, "it ended before it answered"
        try:
            return self.ask().status_code == 200
        except httpx.TransportError:
            return False


def pods() -> list[dict[str, Any]]:
    """Return the containers of a leader and of its follower."""
    wanted = deployment(
        {"name": "default", "replicas": 1, "parallelism": {"tensor": 2, "nodes": 2}},
        model={"uri": "pvc://models", "name": "pydoc"},
        engine={"type": "VLLM", "maxModelLen": 512, "maxNumSeqs": 4},
    )
    (pool,) = plan(wanted, {}).pools
    template = workload(wanted, pool, Settings(), 1)["spec"]["template"]
    beside = follower(pool, template, Place("leader", HOST, rank=1))
    return [one["spec"]["containers"][0] for one in (template, beside)]


def start(
    container: dict[str, Any], folder: Path, core: int, ports: dict[str, int]
) -> subprocess.Popen[bytes]:
    """Start what a container runs on a core, its variables put in as Kubernetes does."""
    variables = {one["name"]: one.get("value", HOST) for one in container["env"]}
    arguments = [
        re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], argument)
        for argument in container["args"]
    ]
    arguments[0] = str(ROOT / "examples" / "model")
    for flag, port in ports.items():
        arguments[arguments.index(flag) + 1] = str(port)
    own = {"HOME": str(folder), "VLLM_CPU_OMP_THREADS_BIND": str(core), "OMP_NUM_THREADS": "1"}
    own["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return subprocess.Popen(
        [str(folder / "bin" / "vllm"), "serve", *arguments],
        env={**os.environ, **variables, **own},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    folder = environment(tmp_path_factory.mktemp("vllm"))
    port, meeting = free_port(), free_port()
    ports = {"--port": port, "--master-port": meeting}
    leads, follows = (start(one, folder, core, ports) for core, one in enumerate(pods()))
    found = Group(leads, follows, port)
    try:
        eventually(found.answers, "an answer", PATIENCE, every=2)
        yield found
    finally:
        for process in (leads, follows):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_two_pods_compute_one_answer_and_a_leader_that_lost_its_follower_ends(group: Group) -> None:
    first, again = group.ask(), group.ask()
    assert first.json()["choices"][0]["text"] == again.json()["choices"][0]["text"] != ""
    os.killpg(group.follower.pid, signal.SIGKILL)
    group.follower.wait()
    assert group.ask().status_code == 500
    eventually(lambda: group.leader.poll() is not None, "the leader ends", 60)
