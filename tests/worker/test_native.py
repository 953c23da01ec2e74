"""The native kernels against PyTorch's: every shape, type and instruction set they distinguish.

Covered: head dimensions, grouping of heads, block sizes, sizes that fit no vector or panel, steps
longer than a pass, mixed steps, threads, stored types, every level that this machine can run.
Whole generations are in test_parity.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from engines import load
from kernel_steps import difference, kept_as, last_logits, native, relative, steps
from kernels import native_library
from tiny_models import SHAPE
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native import build
from penstock_worker.native.levels import this_machine

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def checkpoint(folder: Path, **shape: Any) -> Path:
    """Write a random model; its logits lie within about ±10."""
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        config = LlamaConfig(**{**SHAPE, "num_hidden_layers": 2, **shape})
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def sliding(folder: Path, window: int) -> Path:
    """Write a random model whose tokens see no further than a window."""
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        config = MistralConfig(**{**SHAPE, "num_hidden_layers": 2, "sliding_window": window})
        MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head_dim", [20, 64, 80, 96, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (16, 1)])
def test_every_head_shape_computes_what_torch_computes(
    head_dim: int, heads: int, kv_heads: int, tmp_path: Path
) -> None:
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    folder = checkpoint(tmp_path, **shape)
    assert difference(folder, native(), ExecutionConfig()) < 1e-4


@pytest.mark.parametrize("block_size", [1, 8, 16, 32, 128])
def test_every_block_size_computes_what_torch_computes(block_size: int, tmp_path: Path) -> None:
    length = 50 if block_size == 1 else 100
    folder = checkpoint(tmp_path)
    found = difference(folder, native(), ExecutionConfig(), block_size=block_size, length=length)
    assert found < 1e-4


@pytest.mark.parametrize("length", [3, 15, 64, 65, 129, 400])
def test_every_chunk_size_computes_what_torch_computes(length: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    assert difference(folder, native(), ExecutionConfig(), length=length) < 1e-4


@pytest.mark.parametrize("window", [1, 7, 64, 65, 90])
def test_every_window_computes_what_torch_computes(window: int, tmp_path: Path) -> None:
    folder = sliding(tmp_path, window)
    assert difference(folder, native(), ExecutionConfig(), length=200) < 1e-4


@pytest.mark.parametrize("stored", ["none", "int4"])
def test_sizes_that_fit_no_vector_are_right_too(stored: str, tmp_path: Path) -> None:
    shape = {"hidden_size": 84, "intermediate_size": 131, "vocab_size": 337, "head_dim": 22}
    folder = checkpoint(tmp_path, **shape, initializer_range=0.1)
    how, exact = native(quantization=stored), ExecutionConfig(quantization=stored)
    assert relative(folder, how, exact) < (1e-5 if stored == "none" else 0.01)


def test_a_step_longer_than_a_pass_is_computed_in_parts(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, max_position_embeddings=4096)
    tokens = torch.randint(0, 320, (2500,)).tolist()
    lengths = [900, 1, 1599]
    sequences, positions, first = [], list[int](), 0
    for index, length in enumerate(lengths):
        blocks = list(range(100 * index, 100 * index + 100))
        sequences.append(Sequence(first, length, 0, blocks))
        positions += range(length)
        first += length
    batch = Batch(tokens, positions, sequences, [899, 900, 1500, 2499])
    ours = load(folder, native(threads=2), num_blocks=300).logits(batch)
    theirs = load(folder, ExecutionConfig(), num_blocks=300).logits(batch)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    assert difference(folder, native(threads=threads), native(threads=3)) == 0.0


def test_greedy_takes_the_first_of_the_largest_logits(tmp_path: Path) -> None:
    model = load(checkpoint(tmp_path), native(threads=2), num_blocks=120)
    for batch in steps():
        assert model.greedy(batch) == model.logits(batch).argmax(-1).tolist()


@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_stored_types_stay_near_torchs_own(stored: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, initializer_range=0.1)
    if stored == "bfloat16":
        how, exact = native(dtype=torch.bfloat16), ExecutionConfig(dtype=torch.bfloat16)
    else:
        how, exact = native(quantization=stored), ExecutionConfig(quantization=stored)
    assert relative(folder, how, exact) < 0.02
    assert relative(folder, how, native()) > 1e-3  # it is not float32 by accident


@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
@pytest.mark.parametrize("stored", ["none", "bfloat16", "int8", "int4"])
def test_every_instruction_set_agrees(level: Any, stored: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", initializer_range=0.1)
    library = build.build(level, build.cache_folder())
    kind = kept_as(stored)
    how = ExecutionConfig(kernels=library, **kind)
    assert relative(folder, how, native(**kind)) < (1e-5 if stored == "none" else 0.01)


@pytest.mark.parametrize("stored", ["none", "bfloat16", "int8", "int4", "none, sliding"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_a_token_gets_the_same_bits_whatever_is_computed_with_it(
    stored: str, chunk: int, tmp_path: Path
) -> None:
    stored, _, slides = stored.partition(", ")
    folder = sliding(tmp_path, 30) if slides else checkpoint(tmp_path)
    kind = kept_as(stored)
    how = native(**kind, threads=2)
    found = last_logits(folder, how, chunk, beside=20)
    assert torch.equal(found, last_logits(folder, how, 101, beside=0))
