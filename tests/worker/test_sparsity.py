"""Settings of answers that read a part of their context: the budget, memory, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engines import generate, torch_engine
from kernel_steps import native
from kernels import native_library

from penstock_worker import options
from penstock_worker.attention.pool import KVPool, token_bytes
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig, TierConfig, TransferConfig
from penstock_worker.engine_options import engine_config
from penstock_worker.execution import execution_config
from penstock_worker.kv_size import kv_blocks
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.pooling.builder import build_pooling_engine
from penstock_worker.sparsity import Sparsity, bounds_bytes, sparse_layers

with_kernels = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
BLOCK = 4
SPARSITY = Sparsity(5, BLOCK, (2,))
PROMPTS = [[(7 * i * i + 3 * i + n) % 300 for i in range(30 + 9 * n)] for n in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of three layers."""
    found = tmp_path_factory.mktemp("model")
    tiny_models.make("llama-gqa", found)
    return found


def asked(folder: Path, **changes: Any) -> EngineConfig:
    given = {
        "device": "cpu",
        "threads": 1,
        "block_size": BLOCK,
        "sparse_attention_tokens": 18,
        "kv_cache_bytes": 1 << 20,
    }
    return EngineConfig(str(folder), **{**given, **changes})


@with_kernels
def test_an_engine_counts_the_memory_of_bounds(folder: Path) -> None:
    engine, ready = build_engine(asked(folder))
    _, plain = build_engine(asked(folder, sparse_attention_tokens=0))
    shape = read_config(folder)
    token = token_bytes(shape, torch.float32)
    assert plain.kv_bytes_per_token == token
    # As much as the KV of a token, in one of three layers, for each block of four.
    assert ready.kv_bytes_per_token == token + token // 3 // BLOCK
    assert plain.num_blocks == (1 << 20) // (BLOCK * token)
    assert ready.num_blocks == (1 << 20) // (BLOCK * token + token // 3)
    own = torch_engine(folder, how=native(sparsity=SPARSITY), block_size=BLOCK)
    assert generate(engine, PROMPTS, 40) == generate(own, PROMPTS, 40)


@with_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_counted_is_what_is_taken(dtype: torch.dtype, folder: Path) -> None:
    shape = read_config(folder)
    pool = KVPool.of(shape, 5, BLOCK, dtype, bounded=SPARSITY.layers)
    taken = sum(tensor.numel() * tensor.dtype.itemsize for tensor in pool.stored)
    counted = BLOCK * token_bytes(shape, dtype) + bounds_bytes(shape, SPARSITY, dtype)
    assert taken == 5 * counted
    config = asked(folder, dtype="float32", kv_cache_bytes=40 * counted)
    how = ExecutionConfig(kept_as=dtype, sparsity=SPARSITY)
    assert kv_blocks(config, shape, how, 64) == 40


def test_the_budget_is_rounded_up_to_blocks_and_sliding_layers_stay(tmp_path: Path) -> None:
    given = ["--model", "m", "--sparse-attention-tokens", "1000"]
    assert engine_config(options.parser().parse_args(given)).sparse_attention_tokens == 1000
    assert engine_config(options.parser().parse_args(given[:2])).sparse_attention_tokens == 0
    tiny_models.make("gemma2", tmp_path)
    shape = read_config(tmp_path)
    assert any(shape.windows)
    expected = [i for i, window in enumerate(shape.windows) if i > 1 and not window]
    assert list(sparse_layers(shape)) == expected


@with_kernels
def test_blocks_are_whole(folder: Path) -> None:
    how = execution_config(asked(folder), read_config(folder))
    assert how.sparsity == SPARSITY
    assert how.sparsity.tokens == 20


TIER = TierConfig("kv", 1 << 20)
TRANSFER = TransferConfig("127.0.0.1", 0, "127.0.0.1", 30.0, "one")


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("", {"kernels": "torch"}, "only the native kernels compute it: use --kernels native"),
        ("", {"kernels": "triton"}, "is for CPUs: leave it out on a GPU"),
        ("", {"tensor_parallel_size": 2}, "does not go with --tensor-parallel-size: use 1"),
        ("", {"kv_cache_dtype": "int8_per_token_head"}, "--kv-cache-dtype: use bfloat16"),
        ("", {"transfer": TRANSFER}, "does not go with --kv-transfer: leave it out"),
        ("", {"tier": TIER}, "does not go with --kv-tier-disk: leave it out"),
        ("", {"sparse_attention_tokens": 12}, "reads 4 of them at least: use 16 or more"),
        ("deepseek-v3", {}, "does not go with latent attention"),
        ("mistral-window", {}, "a model of few layers, or whose layers slide: leave"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(
    family: str, changes: dict[str, Any], complaint: str, folder: Path, tmp_path: Path
) -> None:
    if family:
        tiny_models.make(family, tmp_path)
    at = tmp_path if family else folder
    with pytest.raises(ValueError, match=f"^--sparse-attention-tokens.*{complaint}"):
        execution_config(asked(at, **changes), read_config(at))


def test_a_model_that_embeds_has_no_answers(folder: Path) -> None:
    with pytest.raises(ValueError, match="models that embed or score give no answers"):
        build_pooling_engine(asked(folder, task="Embed"))
