"""The agent beside an engine: a real one, a real worker, and a hub that it downloads from."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import plain_http
import pytest
import tiny_adapters
from adapter_agent import KEY, TOKEN, agent
from model_hub import Remote, serve
from waiting import eventually
from worker_process import WorkerProcess, worker

FILES = ("adapter_config.json", "adapter_model.safetensors")


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
    return sorted(model["id"] for model in models if model["parent"])


def test_an_engine_gets_what_its_agent_is_told(hub: Remote, tmp_path: Path) -> None:
    with ExitStack() as stack:
        serving = engine(stack, tmp_path)
        found = stack.enter_context(agent(serving.url, tmp_path / "kept", hub.url))
        assert not found.ready(), "nobody has told it what there is to be"
        found.tell("sql", "law")
        eventually(lambda: found.states() == {"sql": "Ready", "law": "Ready"}, "both are loaded")
        assert names(serving) == ["law", "sql"]
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


def test_an_agent_that_starts_anew_waits_for_nobody_to_tell_it(hub: Remote, tmp_path: Path) -> None:
    flags = ("--told", str(tmp_path / "told.json"))
    with ExitStack() as stack:
        serving = engine(stack, tmp_path)
        with agent(serving.url, tmp_path / "kept", hub.url, *flags) as first:
            first.tell("sql", announced=["sql"])
            eventually(first.ready, "it is loaded and known")
        assert names(serving) == ["sql"], "what serves goes on without its agent"
        again = stack.enter_context(agent(serving.url, tmp_path / "kept", hub.url, *flags))
        eventually(again.ready, "it knows what there is to be")
        assert again.states() == {"sql": "Ready"}
