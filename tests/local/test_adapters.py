"""`penstock up` with LoRA adapters: models of their own, fetched or here, changed by a rollout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_adapters
from model_hub import Remote, serve
from transformers import AutoModelForCausalLM

Write = Callable[..., Path]
MODEL = Path(__file__).parents[2] / "examples" / "model"
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters `loud` and `quiet`."""
    folder = tmp_path_factory.mktemp("adapters")
    base = AutoModelForCausalLM.from_pretrained(MODEL)
    for seed, name in enumerate(("loud", "quiet")):
        tiny_adapters.make(folder / name, base, seed=seed, size=0.1)
    return folder


def with_adapters(path: Path, *wanted: str) -> Path:
    """Put adapters, as YAML, into a manifest."""
    text = path.read_text()
    here = text.index("name: pydoc")
    path.write_text(f"{text[:here]}adapters: [{', '.join(wanted)}], {text[here:]}")
    return path


@pytest.mark.e2e
def test_adapters_are_served_and_change_by_a_rollout(
    machine: Any, manifest: Write, adapters: Path, tmp_path: Path
) -> None:
    (tmp_path / "loud").symlink_to(adapters / "loud")
    path = with_adapters(manifest(), "{name: loud, uri: 'file://./loud'}")
    machine.up(path)
    before = machine.ready()

    with httpx.Client(base_url=f"http://127.0.0.1:{machine.port}/v1", timeout=60) as client:

        def served() -> list[str]:
            return [model["id"] for model in client.get("/models").json()["data"]]

        def text(model: str) -> str:
            body = {"model": model, "prompt": "A list is", "temperature": 0, "max_tokens": 12}
            answer = client.post("/completions", json=body)
            answer.raise_for_status()
            assert answer.json()["model"] == model
            return str(answer.json()["choices"][0]["text"])

        assert served() == ["pydoc", "loud"]
        assert text("loud") != text("pydoc")

        quiet = f"{{name: quiet, uri: 'file://{adapters}/quiet'}}"
        path = with_adapters(manifest(), "{name: loud, uri: 'file://./loud'}", quiet)
        machine.run("up", path, "--detach")
        machine.eventually(lambda: set(machine.ready()).isdisjoint(before), "it is replaced")
        machine.eventually(lambda: served() == ["pydoc", "loud", "quiet"], "both are served")
        assert len({text(name) for name in served()}) == 3


@pytest.mark.e2e
def test_an_adapter_from_a_hub_is_fetched(
    machine: Any, manifest: Write, adapters: Path, tmp_path: Path
) -> None:
    machine.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    path = with_adapters(manifest(), "{name: loud, uri: 'hf://org/model'}")
    files = {name: (adapters / "loud" / name).read_bytes() for name in FILES}
    with serve(Remote(files={**files, "README.md": b"x", "tokenizer.json": b"{}"})) as remote:
        machine.environment["HF_ENDPOINT"] = remote.url
        said = machine.up(path)
    assert "fetching 2 files" in said
    kept = tmp_path / "cache/penstock/models/hf/org/model@main"
    assert {found.name for found in kept.iterdir()} == {*FILES, ".penstock.json"}


def test_an_adapter_that_is_not_there_is_named(machine: Any, manifest: Write) -> None:
    path = with_adapters(manifest(), "{name: lost, uri: 'file://./nowhere'}")
    said = machine.run("up", path, code=2)
    assert "spec.model.adapters[0].uri: there is no adapter in" in said


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("a", "a"), "adapter names must be unique"),
        (("pydoc",), "an adapter must not have a name of its model"),
    ],
)
def test_names_that_mean_two_things_are_refused(
    names: tuple[str, ...], complaint: str, machine: Any, manifest: Write
) -> None:
    found = [f"{{name: {name}, uri: 'file://./x'}}" for name in names]
    assert complaint in machine.run("validate", with_adapters(manifest(), *found), code=2)
