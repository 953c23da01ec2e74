"""The native kernels' memory: bounded, and an error of a step where there is none.

What is thrown in a thread of a team would end the process, so the steps run in one of their own.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import short_of_memory
import tiny_models
import torch
from engines import load
from kernel_steps import native
from kernels import native_library
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig

pytestmark = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")

MANY_HEADS: dict[str, Any] = {
    **tiny_models.LATENT,
    "num_hidden_layers": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 24,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 16,
    "initializer_range": 0.1,
}
"""DeepSeek-V3's attention, in a small model."""


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def many_heads(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    with torch.inference_mode(mode=False):
        DeepseekV3ForCausalLM(DeepseekV3Config(**MANY_HEADS)).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", ["qwen3", "qwen3-moe", "deepseek-v3"])
def test_what_finds_no_memory_is_an_error_and_the_end_of_nothing(
    family: str, tmp_path: Path
) -> None:
    program, library = short_of_memory.__file__, str(native_library())
    with torch.inference_mode(mode=False):
        tiny_models.make(family, tmp_path)
    ran = subprocess.run(
        [sys.executable, program, library, str(tmp_path)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    failures, threads = ran.stdout.splitlines()
    assert int(failures) > 3
    assert threads == "no threads"


def prefill(rows: int) -> Batch:
    places = list(range(rows))
    return Batch([3, 7] * (rows // 2), places, [Sequence(0, rows, 0, list(range(20)))], places)


def test_many_heads_attend_in_parts_that_take_little_memory(many_heads: Path) -> None:
    model = load(many_heads, native(threads=2, dtype=torch.bfloat16), num_blocks=20)
    model.greedy(prefill(2))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    model.greedy(prefill(300))
    assert status("VmHWM") - before < 150 << 20


def test_parts_change_nothing(many_heads: Path) -> None:
    ours = load(many_heads, native(threads=2), num_blocks=20).logits(prefill(250))
    theirs = load(many_heads, ExecutionConfig(), num_blocks=20).logits(prefill(250))
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def status(name: str) -> int:
    """Return bytes of memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)
