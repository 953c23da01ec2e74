"""`penstock up` with a model from a hub or a bucket: fetched once, then served like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_hub import Remote, serve

MODEL = Path(__file__).parents[2] / "examples" / "model"
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
         "model.safetensors")  # fmt: skip


@pytest.fixture
def hub_manifest(manifest: Callable[..., Path]) -> Path:
    path = manifest()
    path.write_text(path.read_text().replace(f"file://{MODEL}", "hf://org/model"))
    return path


def test_a_model_from_a_hub_is_fetched_once_and_served(
    machine: Any, hub_manifest: Path, tmp_path: Path
) -> None:
    machine.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    with serve(Remote(files={name: (MODEL / name).read_bytes() for name in FILES})) as remote:
        machine.environment["HF_ENDPOINT"] = remote.url
        said = machine.up(hub_manifest)
    assert "fetching 5 files" in said
    assert len(machine.ready()) == 1
    assert (tmp_path / "cache/penstock/models/hf/org/model@main/config.json").is_file()
    assert "is complete" in machine.run("up", hub_manifest)  # the hub is gone by now


@pytest.mark.parametrize(
    ("uri", "variable", "words"),
    [
        ("hf://org/other", "HF_ENDPOINT", "hf://org/other does not exist"),
        ("s3://bucket/other", "AWS_ENDPOINT_URL", "s3://bucket/other/ holds nothing"),
        ("gs://bucket/other", "STORAGE_EMULATOR_HOST", "gs://bucket/other/ holds nothing"),
    ],
)
def test_a_model_that_is_not_there_is_told_before_anything_starts(
    machine: Any, hub_manifest: Path, tmp_path: Path, uri: str, variable: str, words: str
) -> None:
    machine.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    hub_manifest.write_text(hub_manifest.read_text().replace("hf://org/model", uri))
    with serve(Remote()) as remote:
        machine.environment[variable] = remote.url
        said = machine.run("up", hub_manifest, code=2)
    assert f"spec.model.uri: {words}" in said
    assert not machine.state.status.exists()
