"""Latent attention: what is kept of it, and the native kernels against PyTorch's.

Covered: memory per token, shapes that fit no vector or panel, stored types, instruction sets, that
a token's numbers depend on nothing beside it, and what is refused. Whole generations against
transformers are in test_parity, hand-off in worker_transfer.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from kernel_steps import difference, kept_as, last_logits, native, relative
from kernels import native_library
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from penstock_worker.attention.pool import KVPool
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import UnsupportedAdapter
from penstock_worker.model.config import UnsupportedModel, read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native import build
from penstock_worker.native.levels import this_machine

needs_compiler = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def checkpoint(folder: Path, **shape: Any) -> Path:
    """Write a random model with latent attention."""
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        config = DeepseekV3Config(
            **{**tiny_models.LATENT, "q_lora_rank": 28, "initializer_range": 0.1, **shape}
        )
        DeepseekV3ForCausalLM(config).save_pretrained(folder)
    return folder


def rewrite(folder: Path, **changes: Any) -> None:
    """Change config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_token_takes_its_latent_and_one_rotary_key_per_layer(tmp_path: Path) -> None:
    config = read_config(checkpoint(tmp_path, kv_lora_rank=512, qk_rope_head_dim=64))
    assert config.kv_bytes_per_token == 4 * 3 * (512 + 64)
    pool = KVPool.of(config, 5, 16, ExecutionConfig().dtype)
    memory = {kept.untyped_storage().data_ptr(): kept for kept in (*pool.keys, *pool.values)}
    taken = sum(kept.untyped_storage().nbytes() for kept in memory.values())
    assert taken == 5 * 16 * config.kv_bytes_per_token


def test_the_pool_has_as_many_blocks_as_its_memory_holds_latents(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    engine = EngineConfig(str(folder), kv_cache_bytes=1 << 20, kernels="torch", threads=1)
    _, ready = build_engine(engine)
    assert ready.kv_bytes_per_token == 4 * 3 * (24 + 8)
    assert ready.num_blocks == (1 << 20) // (16 * ready.kv_bytes_per_token)


def test_a_copied_block_has_the_same_latents(tmp_path: Path) -> None:
    pool = KVPool.of(read_config(checkpoint(tmp_path)), 3, 4, ExecutionConfig().dtype)
    for keys in pool.keys:
        keys.copy_(torch.randn(keys.shape))
    pool.copy(0, 2)
    for keys, values in zip(pool.keys, pool.values, strict=True):
        assert torch.equal(keys[8:12], keys[:4])
        assert torch.equal(values[8:12], keys[:4, :, :24])


SHAPES: list[dict[str, Any]] = [
    {"num_attention_heads": 1, "num_key_value_heads": 1},
    {"num_attention_heads": 16, "num_key_value_heads": 16},
    {"num_attention_heads": 8, "num_key_value_heads": 8, "q_lora_rank": None},
    {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32},
    {"kv_lora_rank": 37, "qk_nope_head_dim": 11, "qk_rope_head_dim": 6, "v_head_dim": 43},
    {"hidden_size": 84, "intermediate_size": 131, "q_lora_rank": 19},
]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_computes_what_torch_computes(shape: dict[str, Any], tmp_path: Path) -> None:
    assert difference(checkpoint(tmp_path, **shape), native(), ExecutionConfig()) < 1e-4


@needs_compiler
@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_stored_types_stay_near_torchs_own(stored: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    kind = kept_as(stored)
    assert relative(folder, native(**kind), ExecutionConfig(**kind)) < 0.02
    assert relative(folder, native(**kind), native()) > 1e-3  # it is not float32 by accident


@needs_compiler
@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
@pytest.mark.parametrize("stored", ["none", "bfloat16"])
def test_every_instruction_set_agrees(level: Any, stored: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    library = build.build(level, build.cache_folder())
    dtype = torch.bfloat16 if stored == "bfloat16" else torch.float32
    found = relative(folder, ExecutionConfig(kernels=library, dtype=dtype), native(dtype=dtype))
    assert found < (1e-5 if stored == "none" else 0.01)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("heads", [4, 32])
def test_the_number_of_threads_changes_no_bit(threads: int, heads: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, num_attention_heads=heads, num_key_value_heads=heads)
    assert difference(folder, native(threads=threads), native(threads=3)) == 0.0


@needs_compiler
@pytest.mark.parametrize("stored", ["none", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_a_token_gets_the_same_bits_whatever_is_computed_with_it(
    stored: str, chunk: int, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, num_attention_heads=32, num_key_value_heads=32)
    kind = kept_as(stored)
    how = native(**kind, threads=2)
    found = last_logits(folder, how, chunk, beside=20)
    assert torch.equal(found, last_logits(folder, how, 101, beside=0))


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    rewrite(folder, num_nextn_predict_layers=1)
    file = folder / "model.safetensors"
    before = last_logits(folder, ExecutionConfig(), 101, beside=0)
    tensors = load_file(file)
    save_file({**tensors, "model.layers.3.eh_proj.weight": torch.ones(2)}, file, {"format": "pt"})
    assert torch.equal(last_logits(folder, ExecutionConfig(), 101, beside=0), before)
    rewrite(folder, num_nextn_predict_layers=0)
    with pytest.raises(UnsupportedModel, match="eh_proj"):
        last_logits(folder, ExecutionConfig(), 101, beside=0)


def test_what_the_authors_of_v2_lite_published_is_read(tmp_path: Path) -> None:
    published = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rope_scaling": {
            "type": "yarn",
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
        "rope_theta": 10000,
        "torch_dtype": "bfloat16",
        "v_head_dim": 128,
        "vocab_size": 102400,
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = read_config(tmp_path)
    assert config.kv_bytes_per_token == 4 * 27 * (512 + 64)
    # modeling_deepseek.py: 192 ** -0.5 * yarn_get_mscale(40, 0.707) ** 2
    assert config.query_scale == pytest.approx(192**-0.5 * 1.2608**2, rel=1e-4)
    assert config.rope.attention_factor == 1.0
    assert config.max_position == 163840


REFUSED: dict[str, dict[str, Any]] = {
    "attention_bias": {"attention_bias": True},
    "kv_lora_rank must be a positive integer": {"kv_lora_rank": None},
    "qk_rope_head_dim must be even": {"qk_rope_head_dim": 7},
    "quantization_config": {"quantization_config": {"quant_method": "fp8"}},
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_what_would_be_computed_wrongly_is_refused_by_name(complaint: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    rewrite(folder, **REFUSED[complaint])
    with pytest.raises(UnsupportedModel, match=complaint):
        read_config(folder)


def test_adapters_are_refused_by_name(tmp_path: Path) -> None:
    config = read_config(checkpoint(tmp_path))
    with pytest.raises(UnsupportedAdapter, match="latent attention"):
        load_adapter("any", tmp_path, config)


def test_gpus_are_refused_by_name(tmp_path: Path) -> None:
    config = read_config(checkpoint(tmp_path))
    with pytest.raises(ValueError, match="latent attention"):
        execution_config(EngineConfig(str(tmp_path), device="cpu", kernels="triton"), config)
