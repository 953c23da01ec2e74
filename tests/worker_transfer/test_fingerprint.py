"""KV is taken only from an engine for which it means the same."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make

from penstock_worker.attention.pool import KVPool
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.transfer.fingerprint import fingerprint
from penstock_worker.transfer.pool_memory import DevicePoolMemory, PoolMemory

KINDS = list(itertools.product([PoolMemory, DevicePoolMemory], repeat=2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make("llama-gqa", folder)
    return folder


def of(folder: Path, shape: ModelConfig | None = None, **changes: Any) -> bytes:
    how = {"block_size": 16, "dtype": "torch.float32", "quantization": "none", **changes}
    return fingerprint(shape or read_config(folder), weight_files(folder), **how)


def test_a_copy_of_the_model_has_the_same(model: Path, tmp_path: Path) -> None:
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert of(tmp_path) == of(model)


@pytest.mark.parametrize(
    "change", [{"block_size": 32}, {"dtype": "torch.bfloat16"}, {"quantization": "int8"}], ids=str
)
def test_another_layout_or_type_has_another(model: Path, change: dict[str, Any]) -> None:
    assert of(model, **change) != of(model)


def test_another_configuration_has_another(model: Path) -> None:
    shape = read_config(model)
    assert of(model, dataclasses.replace(shape, rms_norm_eps=0.5)) != of(model)


def test_every_tensor_counts(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    tensors = load_file(model / "model.safetensors")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    seen = {of(tmp_path)}
    for name in tensors:
        changed = {**tensors, name: tensors[name] * 1.01}
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        seen.add(of(tmp_path))
    assert len(seen) == len(tensors) + 1


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_block_is_the_bytes_of_its_keys_and_values_wherever_they_are(
    dtype: torch.dtype, kinds: tuple[type[PoolMemory], type[PoolMemory]]
) -> None:
    pools = [
        KVPool(num_layers=2, num_kv_heads=3, head_dim=8, num_blocks=5, block_size=4, dtype=dtype)
        for _ in range(2)
    ]
    for tensor in (*pools[0].keys, *pools[0].values):
        tensor.copy_(torch.randn(tensor.shape))
    first, second = kinds[0](pools[0]), kinds[1](pools[1])
    assert first.block_bytes == 2 * 2 * 4 * 3 * 8 * dtype.itemsize
    data = bytearray(b"".join(first.read(3)))
    assert len(data) == first.block_bytes
    second.write(1, data)
    for layer in range(2):
        for ours, theirs in (
            (pools[0].keys, pools[1].keys),
            (pools[0].values, pools[1].values),
        ):
            assert torch.equal(ours[layer][12:16], theirs[layer][4:8])
            assert not theirs[layer][8:].any()
            assert not theirs[layer][:4].any()
