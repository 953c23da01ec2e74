"""How many blocks of KV a worker keeps on a CPU where nobody has said it."""

from pathlib import Path

import pytest
import tiny_models

from penstock_worker import kv_size
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import ALONE, DEFAULT_KV_BYTES, Beside, kv_blocks
from penstock_worker.model.config import read_config

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("model")
    tiny_models.make("llama-gqa", found)
    return found


def room(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: int | None,
    max_model_len: int = 128,
    beside: Beside = ALONE,
) -> int:
    """Return the bytes of KV."""
    monkeypatch.setattr(kv_size, "available_memory", lambda: available)
    shape = read_config(folder)
    config = EngineConfig(str(folder), dtype="float32", device="cpu", max_num_seqs=1 << 20)
    blocks = kv_blocks(config, shape, execution_config(config, shape), max_model_len, beside)
    return blocks * shape.kv_bytes_per_token * config.block_size


def test_there_is_a_bound_where_memory_is_plenty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for available in (64 << 30, None):
        assert room(folder, monkeypatch, available) == pytest.approx(DEFAULT_KV_BYTES, rel=0.01)


def test_weights_and_steps_are_left_their_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    found = room(folder, monkeypatch, weights + 8 * MIB)
    assert found == pytest.approx(4 * MIB, rel=0.01)


def test_a_drafts_weights_are_left_their_memory_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    found = room(folder, monkeypatch, weights + 8 * MIB, beside=Beside(weights=6 * MIB))
    assert found == pytest.approx(MIB, rel=0.01)


def test_one_context_may_take_more_than_its_share(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    context = 4096 * read_config(folder).kv_bytes_per_token
    assert room(folder, monkeypatch, weights + context * 5 // 4, 4096) == context
    with pytest.raises(ValueError, match=r"weights leave \d+ MiB of memory.*--kv-cache-memory"):
        room(folder, monkeypatch, weights + context * 3 // 4, 4096)


def test_a_context_that_the_default_does_not_hold_gets_what_memory_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = 2 * DEFAULT_KV_BYTES
    length = context // read_config(folder).kv_bytes_per_token
    assert room(folder, monkeypatch, 8 << 30, length) == pytest.approx(context, rel=0.01)
    refused = r"weights leave 3071 MiB of memory.*lower --max-model-len"
    with pytest.raises(ValueError, match=refused):
        room(folder, monkeypatch, 3 << 30, length)


def test_a_container_that_is_too_small_is_told_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="--kv-cache-memory"):
        room(folder, monkeypatch, MIB // 8)
