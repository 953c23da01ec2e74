"""`penstock up` with LoRA adapters: models of their own, fetched or here, that come and go."""

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
def test_adapters_come_change_and_go_while_the_same_worker_serves(
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
        loud, base = text("loud"), text("pydoc")
        assert loud != base

        quiet = f"{{name: quiet, uri: 'file://{adapters}/quiet'}}"
        path = with_adapters(manifest(), "{name: loud, uri: 'file://./loud'}", quiet)
        machine.up(path)
        assert served() == ["pydoc", "loud", "quiet"]
        assert len({text(name) for name in served()}) == 3

        machine.up(with_adapters(manifest(), f"{{name: loud, uri: 'file://{adapters}/quiet'}}"))
        assert served() == ["pydoc", "loud"]
        assert text("loud") not in (loud, base)
        gone = client.post("/completions", json={"model": "quiet", "prompt": "A"})
        assert gone.status_code == 404
    assert machine.ready() == before


@pytest.mark.e2e
def test_an_adapter_that_does_not_fit_is_named_and_the_others_serve(
    machine: Any, manifest: Write, adapters: Path, tmp_path: Path
) -> None:
    loud = f"{{name: loud, uri: 'file://{adapters}/loud'}}"
    machine.up(with_adapters(manifest(), loud))
    tiny_adapters.config(tmp_path, use_dora=True)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    bad = with_adapters(manifest(), loud, f"{{name: bad, uri: 'file://{tmp_path}'}}")
    said = machine.run("up", bad, "--detach", code=1)
    assert "bad: " in said
    assert "use_dora is not supported" in said
    url = f"http://127.0.0.1:{machine.port}/v1/completions"
    for name, status in (("loud", 200), ("bad", 503)):
        body = {"model": name, "prompt": "A", "max_tokens": 1}
        assert httpx.post(url, json=body, timeout=60).status_code == status


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
