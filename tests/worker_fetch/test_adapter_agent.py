"""The agent beside an engine: a real one, a real worker, and a hub that it downloads from."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
import tiny_adapters
from model_hub import Remote, serve
from ports import free_port
from waiting import eventually
from worker_process import COMMAND, WorkerProcess, worker

TOKEN = "a token of the tests"
KEY = {"authorization": f"Bearer {TOKEN}"}
FILES = ("adapter_config.json", "adapter_model.safetensors")


class Agent:
    """The process, and how it is spoken to."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def tell(self, *names: str, announced: list[str] | None = None, **revisions: str) -> Any:
        wanted = [
            {
                "name": name,
                "uri": "hf://org/model",
                "revision": revisions.get(name, "main"),
                "folder": f"hf/org/{name}@{revisions.get(name, 'main')}",
            }
            for name in names
        ]
        body = {"adapters": wanted, "announced": announced}
        answer = plain_http.put(f"{self.url}/adapters", json=body, headers=KEY)
        answer.raise_for_status()
        return answer.json()

    def report(self) -> Any:
        return plain_http.get(f"{self.url}/adapters", headers=KEY).json()

    def states(self) -> dict[str, str]:
        return {name: one["state"] for name, one in self.report()["adapters"].items()}

    def ready(self) -> bool:
        return plain_http.get(f"{self.url}/ready").status_code == 200


@contextmanager
def agent(engine: str, folder: Path, hub: str, *flags: str) -> Iterator[Agent]:
    port = free_port()
    command = [str(COMMAND), "adapters", "--engine", engine, "--into", str(folder)]
    command += ["--port", str(port)]
    environment = {**os.environ, "PENSTOCK_WORKER_TOKEN": TOKEN, "HF_ENDPOINT": hub}
    process = subprocess.Popen([*command, "--evict", *flags], env=environment)
    found = Agent(f"http://127.0.0.1:{port}", folder)

    def answers() -> bool:
        try:
            return bool(found.report())
        except httpx.TransportError:
            return False

    try:
        eventually(answers, "the agent answers")
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Remote]:
    tiny_adapters.config(tmp_path)
    (tmp_path / FILES[1]).write_bytes(b"weights that a simulated engine does not read")
    files = {name: (tmp_path / name).read_bytes() for name in FILES}
    with serve(Remote(files=files)) as found:
        yield found


def engine(stack: ExitStack, tmp_path: Path) -> WorkerProcess:
    flags = ("--runner", "sim", "--max-adapters", "2")
    found = stack.enter_context(worker(tmp_path / "log", *flags, token=TOKEN))
    eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
    return found


def names(at: WorkerProcess) -> list[str]:
    models = plain_http.get(f"{at.url}/v1/models", headers=KEY).json()["data"]
    return [model["id"] for model in models if model["parent"]]


def test_an_engine_gets_what_its_agent_is_told(hub: Remote, tmp_path: Path) -> None:
    with ExitStack() as stack:
        serving = engine(stack, tmp_path)
        found = stack.enter_context(agent(serving.url, tmp_path / "kept", hub.url))
        assert not found.ready(), "nobody has told it what there is to be"
        found.tell("sql", "law")
        eventually(lambda: found.states() == {"sql": "Ready", "law": "Ready"}, "both are loaded")
        assert names(serving) == ["sql", "law"]
        assert not found.ready(), "gateways do not know of them"
        found.tell("sql", "law", announced=["law", "sql"])
        eventually(found.ready, "gateways know")
        # One too many fails, by the engine's own words; the others stay.
        found.tell("sql", "law", "more", announced=["law", "sql"])
        eventually(lambda: found.states()["more"] == "Failed", "it is refused")
        assert "--max-adapters is 2" in found.report()["adapters"]["more"]["message"]
        assert found.ready(), "what comes later keeps nobody away"
        # Taken away: unloaded, and its files are gone.
        found.tell("law", announced=["law"])
        eventually(lambda: names(serving) == ["law"], "it is unloaded")
        eventually(lambda: not (found.folder / "hf/org/sql@main").exists(), "its files are gone")
        # What is not there is named.
        hub.files.clear()
        found.tell("law", "lost", announced=["law"])
        eventually(lambda: found.states()["lost"] == "Failed", "it cannot be had")
        assert found.report()["adapters"]["lost"]["message"]
        answer = plain_http.get(f"{found.url}/adapters")
        assert answer.status_code == 401, "without the token"


def test_an_engine_that_starts_anew_gets_all_of_them_again(hub: Remote, tmp_path: Path) -> None:
    with ExitStack() as stack, ExitStack() as first:
        serving = engine(first, tmp_path)
        port = serving.url.rpartition(":")[2]
        found = stack.enter_context(agent(serving.url, tmp_path / "kept", hub.url))
        found.tell("sql", announced=["sql"])
        eventually(found.ready, "it is loaded and known")
        first.close()
        eventually(lambda: not found.ready(), "its engine is away")
        again = worker(
            tmp_path / "log", "--runner", "sim", "--max-adapters", "2", "--port", port, token=TOKEN
        )
        stack.enter_context(again)
        eventually(found.ready, "it is loaded again")
        assert found.states() == {"sql": "Ready"}


def test_another_adapter_under_a_name_replaces_the_former_but_not_in_vllm(
    hub: Remote, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        serving = engine(stack, tmp_path)
        ours = stack.enter_context(agent(serving.url, tmp_path / "kept", hub.url))
        ours.tell("sql")
        eventually(lambda: ours.states() == {"sql": "Ready"}, "it is loaded")
        ours.tell("sql", sql=hub.commit)
        eventually(lambda: ours.states() == {"sql": "Ready"}, "the other one is loaded")
        models = plain_http.get(f"{serving.url}/v1/models", headers=KEY).json()["data"]
        assert models[-1]["root"].endswith(f"@{hub.commit}")
    with ExitStack() as stack:
        serving = engine(stack, tmp_path)
        other = stack.enter_context(agent(serving.url, tmp_path / "by", hub.url, "--by-name"))
        other.tell("sql")
        eventually(lambda: other.states() == {"sql": "Ready"}, "it is loaded")
        other.tell("sql", sql=hub.commit)
        eventually(lambda: other.states() == {"sql": "Failed"}, "the name is taken")
        assert "give the new one another name" in other.report()["adapters"]["sql"]["message"]
        assert names(serving) == ["sql"], "what had it keeps it"
