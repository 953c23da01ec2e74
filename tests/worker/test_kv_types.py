"""KV that is stored narrower than it is computed: kernels, blocks, engines, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engines import generate, load, torch_engine
from hypothesis import given
from hypothesis import strategies as st
from kernel_steps import difference, last_logits, native, relative, steps
from kernels import native_library
from transformers import LlamaConfig, LlamaForCausalLM

from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.attention.stored import quantised
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import kv_blocks
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.options import parser

INT8 = ExecutionConfig(kept_as=torch.int8)
with_kernels = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
PROMPTS = [[(7 * i * i + 3 * i + n) % 300 for i in range(40 + 13 * n)] for n in range(4)]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def checkpoint(folder: Path, **shape: Any) -> Path:
    """Write a random model; its logits lie within about ±10."""
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        config = LlamaConfig(**{**tiny_models.SHAPE, "num_hidden_layers": 2, **shape})
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def made(family: str, folder: Path) -> Path:
    with torch.inference_mode(mode=False):
        tiny_models.make(family, folder)
    return folder


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8))
def test_bytes_are_as_near_as_a_step_of_their_scale_allows(numbers: list[float]) -> None:
    vectors = torch.tensor(numbers).view(2, 1, 4)
    found, scales = quantised(vectors)
    error = (found * scales[..., None] - vectors).abs().amax(-1)
    assert (error <= 0.5001 * scales).all()
    assert torch.equal(found.abs().amax(-1) == 127, vectors.abs().amax(-1) > 1e-12)


@pytest.mark.parametrize("block_size", [1, 8, 16])
def test_what_is_put_into_slots_is_taken_out_of_them(block_size: int) -> None:
    pool = a_pool(48 // block_size, block_size)
    slots = torch.randperm(48)[:30]
    key, value = torch.randn(2, 30, 3, 16)
    pool.put(1, slots, key, value)
    keys, values = pool.take(1, slots, torch.float32)
    assert (keys - key).abs().max() < 0.02
    assert (values - value).abs().max() < 0.02
    alone = pool.take(1, slots[7:8], torch.float32)[0]
    assert torch.equal(alone[0], keys[7])
    assert not pool.take(0, slots, torch.float32)[0].any()


def test_a_copied_block_holds_the_same_numbers() -> None:
    pool = a_pool(6, 8)
    key, value = torch.randn(2, 48, 3, 16)
    pool.put(0, torch.arange(48), key, value)
    pool.copy(2, 5)
    for source, copied in zip(
        pool.take(0, torch.arange(16, 24), torch.float32),
        pool.take(0, torch.arange(40, 48), torch.float32),
        strict=True,
    ):
        assert torch.equal(source, copied)


def a_pool(num_blocks: int, block_size: int) -> KVPool:
    shape = {"num_layers": 2, "num_kv_heads": 3, "head_dim": 16}
    return KVPool(**shape, num_blocks=num_blocks, block_size=block_size, dtype=torch.int8)


@with_kernels
@pytest.mark.parametrize("head_dim", [20, 64, 80, 96, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (16, 1)])
def test_every_head_shape_computes_what_torch_computes(
    head_dim: int, heads: int, kv_heads: int, tmp_path: Path
) -> None:
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    folder = checkpoint(tmp_path, **shape)
    # A number between two steps may go either way, but for the order of a sum.
    assert relative(folder, native(kept_as=torch.int8), INT8) < 1e-3


@with_kernels
@pytest.mark.parametrize("block_size", [1, 8, 32, 128])
def test_every_block_size_computes_what_torch_computes(block_size: int, tmp_path: Path) -> None:
    folder, length = checkpoint(tmp_path), 50 if block_size == 1 else 100
    how = native(kept_as=torch.int8)
    assert difference(folder, how, INT8, block_size=block_size, length=length) < 0.01


@with_kernels
def test_it_is_near_float32_and_not_float32(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, initializer_range=0.1)
    for kept_as, far in ((torch.int8, 0.02), (torch.bfloat16, 0.01)):
        assert 1e-4 < relative(folder, native(kept_as=kept_as), native()) < far
        assert 1e-4 < relative(folder, ExecutionConfig(kept_as=kept_as), native()) < far


@with_kernels
def test_bfloat16_kv_computes_what_torch_computes(tmp_path: Path) -> None:
    folder = made("deepseek-v3", tmp_path)
    found = relative(folder, native(kept_as=torch.bfloat16), ExecutionConfig(kept_as=torch.bfloat16))
    assert found < 2e-3
