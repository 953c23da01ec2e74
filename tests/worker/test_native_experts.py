"""Experts by the native kernels against PyTorch's: every shape and type that they distinguish.

Covered: numbers and sizes of experts, stored types, threads, instruction sets, steps longer than a
pass, all tokens at the same experts, and that a token's numbers depend on nothing beside it. Whole
generations are in test_parity, ways to choose experts in test_experts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import load
from kernel_steps import difference, kept_as, last_logits, native, relative
from kernels import native_library
from tiny_models import LATENT_EXPERTS, SHAPE
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native import build
from penstock_worker.native.levels import this_machine

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")

EXPERTS: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 72,
    "num_hidden_layers": 2,
    "initializer_range": 0.1,
}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def checkpoint(folder: Path, **shape: Any) -> Path:
    """Write a random model with routed and shared experts."""
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        config = Qwen2MoeConfig(**{**SHAPE, **EXPERTS, **shape})
        Qwen2MoeForCausalLM(config).save_pretrained(folder)
    return folder


SHAPES: list[dict[str, Any]] = [
    {"num_experts": 1, "num_experts_per_tok": 1},
    {"num_experts": 4, "num_experts_per_tok": 4},
    {"num_experts": 130, "num_experts_per_tok": 8, "moe_intermediate_size": 7},
    {"num_experts": 33, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 5},
    {"hidden_size": 84, "moe_intermediate_size": 131, "head_dim": 22},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_computes_what_torch_computes(shape: dict[str, Any], tmp_path: Path) -> None:
    assert difference(checkpoint(tmp_path, **shape), native(), ExecutionConfig()) < 1e-4


@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_stored_types_stay_near_torchs_own(stored: str, tmp_path: Path) -> None:
    # Every token passes every expert: rounding sends none elsewhere, which would hide the rest.
    folder = checkpoint(tmp_path, num_experts=4, num_experts_per_tok=4)
    assert relative(folder, native(**kept_as(stored)), ExecutionConfig(**kept_as(stored))) < 0.02
    assert relative(folder, native(**kept_as(stored)), native()) > 1e-3


@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
@pytest.mark.parametrize("stored", ["none", "int8"])
def test_every_instruction_set_agrees(level: Any, stored: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", num_experts=4, num_experts_per_tok=4)
    how = ExecutionConfig(kernels=build.build(level, build.cache_folder()), **kept_as(stored))
    assert relative(folder, how, native(**kept_as(stored))) < (1e-5 if stored == "none" else 0.01)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads: int, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    assert difference(folder, native(threads=threads), native(threads=3)) == 0.0


@pytest.mark.parametrize("stored", ["none", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_a_token_gets_the_same_bits_whatever_is_computed_with_it(
    stored: str, chunk: int, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path)
    how = native(**kept_as(stored), threads=2)
    found = last_logits(folder, how, chunk, beside=20)
    assert torch.equal(found, last_logits(folder, how, 101, beside=0))


def test_a_step_longer_than_a_pass_is_computed_in_parts(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, max_position_embeddings=4096, initializer_range=0.05)
    tokens = torch.randint(0, 320, (1500,), generator=torch.Generator().manual_seed(1)).tolist()
    batch = Batch(
        tokens, list(range(1500)), [Sequence(0, 1500, 0, list(range(94)))], [0, 1007, 1499]
    )
    ours = load(folder, native(threads=2), num_blocks=94).logits(batch)
    theirs = load(folder, ExecutionConfig(), num_blocks=94).logits(batch)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("how", [ExecutionConfig(), native(threads=2)], ids=["torch", "native"])
def test_all_tokens_may_choose_the_same_experts(how: ExecutionConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**LATENT_EXPERTS)).eval()
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias[6:9] = 100.0  # a group, and as many as are chosen
    model.save_pretrained(tmp_path)
    tokens = torch.randint(0, 320, (70,), generator=torch.Generator().manual_seed(1))
    batch = Batch(
        tokens.tolist(), list(range(70)), [Sequence(0, 70, 0, list(range(5)))], list(range(70))
    )
    ours = load(tmp_path, how, num_blocks=5).logits(batch)
    assert (ours - model(tokens[None]).logits[0]).abs().max() < 1e-4
