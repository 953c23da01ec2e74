"""vLLM's routes for adapters that come and go, on a real worker that streams meanwhile."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
import tiny_adapters
from openai import OpenAI
from transformers import AutoModelForCausalLM
from waiting import PATIENCE, eventually
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, worker

TOKEN = "a token of the tests"
KEY = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = AutoModelForCausalLM.from_pretrained(EXAMPLE_MODEL)
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("loud", "quiet")):
        tiny_adapters.make(folder / name, base, seed=seed, size=0.05)
    return {name: folder / name for name in ("loud", "quiet")}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(log, "--max-adapters", "2", "--max-adapter-rank", "8", token=TOKEN) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def asked(serving: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{serving.url}/v1", api_key=TOKEN, max_retries=0) as found:
        yield found


def load(at: WorkerProcess, name: str, folder: Path | str, **more: Any) -> httpx.Response:
    body = {"lora_name": name, "lora_path": str(folder), **more}
    url = f"{at.url}/v1/load_lora_adapter"
    return plain_http.post(url, json=body, headers=KEY)


def unload(at: WorkerProcess, name: str) -> httpx.Response:
    url = f"{at.url}/v1/unload_lora_adapter"
    return plain_http.post(url, json={"lora_name": name}, headers=KEY)


def text(asked: OpenAI, model: str, count: int = 16) -> str:
    found = asked.completions.create(
        model=model, prompt="A list is", temperature=0, max_tokens=count,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    return found.choices[0].text


def test_adapters_come_replace_each_other_and_go_beside_a_stream(
    serving: WorkerProcess, asked: OpenAI, folders: dict[str, Path]
) -> None:
    expected = text(asked, NAME, 300)
    said: list[str] = []
    begun = threading.Event()

    def stream() -> None:
        for chunk in asked.completions.create(
            model=NAME, prompt="A list is", temperature=0, max_tokens=300, stream=True,
            extra_body={"ignore_eos": True},
        ):  # fmt: skip
            said.append(chunk.choices[0].text)
            begun.set()

    streaming = threading.Thread(target=stream)
    streaming.start()
    assert begun.wait(PATIENCE)
    answer = load(serving, "it", folders["loud"])
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'it' added successfully."
    listed = {one.id: getattr(one, "root") for one in asked.models.list()}  # noqa: B009
    assert listed["it"] == str(folders["loud"])
    loud = text(asked, "it")
    assert loud != text(asked, NAME)
    again = load(serving, "it", folders["quiet"])
    assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
    assert load(serving, "it", folders["quiet"], load_inplace=True).status_code == 200
    assert text(asked, "it") not in (loud, text(asked, NAME))
    assert unload(serving, "it").text == "Success: LoRA adapter 'it' removed successfully."
    gone = plain_http.post(
        f"{serving.url}/v1/completions", json={"model": "it", "prompt": "A"}, headers=KEY
    )
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert unload(serving, "it").status_code == 404
    streaming.join()
    assert "".join(said) == expected


def test_what_cannot_be_loaded_is_refused_with_the_reason(
    serving: WorkerProcess, folders: dict[str, Path], tmp_path: Path
) -> None:
    tiny_adapters.config(tmp_path, r=64)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for name, folder, complaint in (
        (NAME, folders["loud"], "is the model's own name"),
        ("it", tmp_path / "nowhere", "No such file or directory"),
        ("it", "relative", "absolute path"),
        ("it", tmp_path, "--max-adapter-rank is 8"),
    ):
        answer = load(serving, name, folder)
        assert answer.status_code == 400
        assert complaint in answer.json()["error"]["message"]
    for name in ("one", "two"):
        assert load(serving, name, folders["loud"]).status_code == 200
    assert (
        "--max-adapters is 2" in load(serving, "three", folders["loud"]).json()["error"]["message"]
    )
    for name in ("one", "two"):
        assert unload(serving, name).status_code == 200


def test_only_whoever_has_the_token_changes_adapters(
    serving: WorkerProcess, folders: dict[str, Path]
) -> None:
    body = {"lora_name": "it", "lora_path": str(folders["loud"])}
    for route in ("load", "unload"):
        answer = plain_http.post(f"{serving.url}/v1/{route}_lora_adapter", json=body)
        assert answer.status_code == 401


def test_a_worker_that_was_not_told_to_takes_none(tmp_path: Path, folders: dict[str, Path]) -> None:
    with worker(tmp_path / "log", "--runner", "sim", token=TOKEN) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        answer = load(found, "it", folders["loud"])
        assert answer.status_code == 404
        assert "--max-adapters" in answer.json()["error"]["message"]
