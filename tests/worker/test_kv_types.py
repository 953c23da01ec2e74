"""KV that is stored narrower than it is computed: kernels, blocks, engines, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engines import generate, torch_engine
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_steps import KV, difference, kept_as, last_logits, native, relative
from kernels import native_library
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from penstock_contract.api.engine import KvCacheDtype
from penstock_worker import options
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.attention.stored import KV_CACHE_DTYPES, quantised
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import kv_blocks
from penstock_worker.messages import Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native import build
from penstock_worker.native.levels import this_machine
from penstock_worker.speculative.ngram import NgramProposer

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


@example([0.0] * 7 + [1e-12])
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=8, max_size=8))
def test_bytes_are_as_near_as_a_step_of_their_scale_allows(numbers: list[float]) -> None:
    vectors = torch.tensor(numbers).view(2, 1, 4)
    found, scales = quantised(vectors)
    error = (found * scales[..., None] - vectors).abs().amax(-1)
    assert (error <= 0.5001 * scales).all()
    largest = vectors.abs().amax(-1)
    assert (found.abs().amax(-1)[largest >= 1e-12] == 127).all()
    assert not found[largest == 0].any()


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
    return KVPool(
        num_layers=2,
        num_kv_heads=3,
        head_dim=16,
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=torch.int8,
    )


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
    for kind, far in ((torch.int8, 0.02), (torch.bfloat16, 0.01)):
        assert 1e-4 < relative(folder, native(kept_as=kind), native()) < far
        assert 1e-4 < relative(folder, ExecutionConfig(kept_as=kind), native()) < far


@with_kernels
@pytest.mark.parametrize("factors", [(0.0, 1.0), (1.0, 0.0), (1e4, 1e-9), (1e-9, 1e4)], ids=str)
def test_keys_and_values_may_be_nothing_or_huge(
    factors: tuple[float, float], tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, head_dim=20)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        tensor *= factors[0] if "k_proj" in name else factors[1] if "v_proj" in name else 1.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert relative(folder, native(kept_as=torch.int8), INT8) < 1e-3


def test_keys_with_a_number_far_above_the_others_lose_more(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, initializer_range=0.1, attention_bias=True)
    lost = [relative(folder, INT8, ExecutionConfig())]
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("k_proj.bias"):
            tensor[5] = 100.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    lost.append(relative(folder, INT8, ExecutionConfig()))
    assert lost[1] > 5 * lost[0]
    assert relative(folder, ExecutionConfig(kept_as=torch.bfloat16), ExecutionConfig()) < 0.05


@with_kernels
def test_bfloat16_kv_computes_what_torch_computes(tmp_path: Path) -> None:
    folder = made("deepseek-v3", tmp_path)
    found = relative(
        folder, native(kept_as=torch.bfloat16), ExecutionConfig(kept_as=torch.bfloat16)
    )
    assert found < 2e-3


@with_kernels
@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
def test_every_instruction_set_agrees(level: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", initializer_range=0.1)
    how = ExecutionConfig(kernels=build.build(level, build.cache_folder()), kept_as=torch.int8)
    assert relative(folder, how, native(kept_as=torch.int8)) < 2e-3


@with_kernels
@pytest.mark.parametrize("stored", list(KV))
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_a_token_gets_the_same_bits_whatever_is_computed_with_it(
    stored: str, chunk: int, tmp_path: Path
) -> None:
    folder, how = checkpoint(tmp_path), native(**kept_as(stored), threads=2)
    found = last_logits(folder, how, chunk, beside=20)
    assert torch.equal(found, last_logits(folder, how, 101, beside=0))


@with_kernels
@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "mistral-window", "qwen3-moe"])
def test_batches_chunks_cached_prefixes_and_preemption_change_no_token(
    family: str, tmp_path: Path
) -> None:
    folder, how = made(family, tmp_path), native(kept_as=torch.int8, threads=2)
    alone = [generate(torch_engine(folder, how=how), [prompt], 20)[0] for prompt in PROMPTS]
    together = torch_engine(folder, how=how, budget=24, num_blocks=14)
    for _ in range(2):
        assert generate(together, PROMPTS, 20) == alone
    sampled = Sampling(temperature=0.8, seed=5)
    drawn = [
        generate(engine, PROMPTS[:2], 30, sampled)
        for engine in (torch_engine(folder, how=how), torch_engine(folder, how=how, budget=8))
    ]
    assert drawn[0] == drawn[1]


@with_kernels
def test_guessed_tokens_are_those_that_would_be_drawn(tmp_path: Path) -> None:
    folder, how = made("llama-gqa", tmp_path), native(kept_as=torch.int8)
    plain = generate(torch_engine(folder, how=how), PROMPTS, 40)
    guessing = torch_engine(folder, how=how, proposer=NgramProposer(4))
    assert generate(guessing, PROMPTS, 40) == plain


def engine_config(folder: Path, **changes: Any) -> EngineConfig:
    given = {"kernels": "torch", "device": "cpu", "threads": 1, "kv_cache_bytes": 1 << 20}
    return EngineConfig(str(folder), **{**given, **changes})


def test_as_many_more_tokens_fit_as_they_take_fewer_bytes(tmp_path: Path) -> None:
    folder = made("llama-gqa", tmp_path)
    shape = read_config(folder)
    held = {}
    for kind in KV_CACHE_DTYPES:
        config = engine_config(folder, kv_cache_dtype=kind)
        how = execution_config(config, shape)
        held[kind] = kv_blocks(config, shape, how, 64) * config.block_size
        pool = KVPool.of(shape, 5, 16, how.kv_dtype)
        taken = sum(tensor.numel() * tensor.dtype.itemsize for tensor in pool.stored)
        assert taken == 5 * 16 * token_bytes(shape, how.kv_dtype)
    width = shape.head_dim
    assert held["bfloat16"] == 2 * held["auto"]
    assert held["int8_per_token_head"] == pytest.approx(
        held["auto"] * 4 * width / (width + 4), rel=0.02
    )


def test_an_engine_serves_it_and_says_so(tmp_path: Path) -> None:
    folder = made("llama-gqa", tmp_path)
    engine, ready = build_engine(engine_config(folder, kv_cache_dtype="int8_per_token_head"))
    _, plain = build_engine(engine_config(folder))
    assert ready.num_blocks > 3 * plain.num_blocks
    assert ready.kv_cache_dtype == "int8_per_token_head"
    assert generate(engine, PROMPTS, 12) == generate(torch_engine(folder, how=INT8), PROMPTS, 12)


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("llama-gqa", {"kv_cache_dtype": "fp8"}, "'fp8' is not one of auto, bfloat16, int8"),
        ("llama-gqa", {"kernels": "triton"}, "is for CPUs: use auto on a GPU"),
        ("deepseek-v3", {}, "latents .* use bfloat16 or auto"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(
    family: str, changes: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    folder = made(family, tmp_path)
    asked = engine_config(folder, **{"kv_cache_dtype": "int8_per_token_head", **changes})
    with pytest.raises(ValueError, match=complaint):
        execution_config(asked, read_config(folder))


@pytest.mark.parametrize("flag", list(KV_CACHE_DTYPES))
def test_the_flag_is_vllms(flag: str) -> None:
    assert options.parser().parse_args(["--model", "m", "--kv-cache-dtype", flag])
    assert flag in list(KvCacheDtype)


def test_kv_of_another_type_is_nobody_elses() -> None:
    kinds = [
        ExecutionConfig(dtype, kept_as=kept).kv_kind
        for dtype in (torch.float32, torch.bfloat16)
        for kept in (None, torch.bfloat16, torch.int8)
    ]
    assert len(set(kinds)) == 5  # bfloat16 in bfloat16 is what it is by itself
