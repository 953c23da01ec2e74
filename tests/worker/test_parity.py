"""The engine's numbers against transformers: every family, every way of cutting the work.

Covered, for PyTorch's kernels and the native ones: logits within 1e-4 and 32 greedy tokens, for
every supported family; then, on five that differ most, the same tokens whatever the batch, the
chunk size, the cache, or a preemption; and every stored type. Not covered here: sampled decoding
(test_sampling), shapes and types that only the native kernels distinguish (test_native).
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engines import generate, load, torch_engine
from transformers import AutoModelForCausalLM

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.config import UnsupportedModel, read_config
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
COUNT = 32
TINY = ["llama-gqa", "mistral-window", "gemma3", "qwen2-moe", "deepseek-v3-experts"]


def prompts(*lengths: int, vocab: int = 320) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in lengths]


def expected(model: Any, prompt: list[int], count: int = COUNT) -> list[int]:
    """Greedy tokens by transformers' own loop, computed once."""
    return list(_expected(model, tuple(prompt), count))


@functools.cache
def _expected(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
    )
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=TINY)
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_models.make(request.param, folder)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_computes_what_transformers_computes(
    family: str, how: ExecutionConfig, tmp_path: Path
) -> None:
    model = tiny_models.make(family, tmp_path)
    prompt = prompts(45)[0]
    batch = Batch(prompt, list(range(45)), [Sequence(0, 45, 0, [2, 0, 3])], list(range(45)))
    with torch.inference_mode():
        ours = load(tmp_path, how, num_blocks=4).logits(batch)
        theirs = model(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4
    assert generate(torch_engine(tmp_path, how=how), [prompt], COUNT) == [expected(model, prompt)]


def test_the_example_model_computes_what_transformers_computes(how: ExecutionConfig) -> None:
    model = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()
    wanted = prompts(20, 70, vocab=model.config.vocab_size)
    got = generate(torch_engine(EXAMPLE, how=how), wanted, COUNT)
    assert got == [expected(model, prompt) for prompt in wanted]


@pytest.mark.parametrize("budget", [1, 7, 16, 33, 4096])
def test_chunks_and_batches_change_nothing(
    tiny: tuple[Path, Any], budget: int, how: ExecutionConfig
) -> None:
    folder, model = tiny
    wanted = prompts(1, 16, 17, 40, 64)
    got = generate(torch_engine(folder, budget=budget, how=how), wanted, COUNT)
    assert got == [expected(model, prompt) for prompt in wanted]


def test_a_cached_prefix_changes_nothing(tiny: tuple[Path, Any], how: ExecutionConfig) -> None:
    folder, model = tiny
    engine = torch_engine(folder, how=how)
    shared = prompts(48)[0]
    wanted = [shared, [*shared, 1, 2, 3], [*shared[:32], 9], shared]
    for prompt in wanted:
        assert generate(engine, [prompt], COUNT) == [expected(model, prompt)]
    assert engine.scheduler.prefix_hits >= 32 + 32 + 48


def test_preempted_requests_resume_as_if_nothing_had_happened(
    tiny: tuple[Path, Any], how: ExecutionConfig
) -> None:
    folder, model = tiny
    wanted = prompts(30, 31, 32, 33)
    engine = torch_engine(folder, num_blocks=10, budget=64, how=how)
    assert generate(engine, wanted, COUNT) == [expected(model, prompt) for prompt in wanted]
    assert engine.scheduler.preemptions > 0


def test_the_same_without_a_prefix_cache(tiny: tuple[Path, Any]) -> None:
    folder, model = tiny
    wanted = prompts(30, 31, 32, 33)
    engine = torch_engine(folder, num_blocks=10, budget=64, caching=False)
    assert generate(engine, wanted, COUNT) == [expected(model, prompt) for prompt in wanted]
    assert engine.scheduler.prefix_hits == 0
    assert engine.pool.counts().free == 10


def test_sharded_checkpoints_load(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = tiny
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    prompt = prompts(20)[0]
    assert generate(torch_engine(tmp_path), [prompt], 8) == generate(
        torch_engine(folder), [prompt], 8
    )


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_checkpoints_of_every_type_are_read(
    stored: torch.dtype, how: ExecutionConfig, tmp_path: Path
) -> None:
    model = tiny_models.make("llama-gqa", tmp_path).to(stored)
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path).dtype == str(stored).removeprefix("torch.")
    prompt = prompts(20)[0]
    got = generate(torch_engine(tmp_path, how=how), [prompt], COUNT)
    assert got == [expected(model.float(), prompt)]


def test_a_context_that_yarn_stretches_is_served_whole(tmp_path: Path) -> None:
    tiny_models.make("yarn-rope", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["max_position_embeddings"] = 128
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path).max_position == 4 * 128


REFUSED: dict[str, dict[str, Any]] = {
    "rope scaling 'longrope'": {"rope_parameters": {"rope_type": "longrope"}},
    "needs factor": {"rope_parameters": {"rope_type": "yarn"}},
    "partial_rotary_factor": {"partial_rotary_factor": 0.5},
    "final_logit_softcapping": {"final_logit_softcapping": 30.0},
    "layer_types": {"layer_types": ["chunked_attention"] * 3},
    "hidden_act": {"hidden_act": "relu"},
    "architectures": {"architectures": ["GPT2LMHeadModel"]},
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_what_would_be_computed_wrongly_is_refused_by_name(complaint: str, tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | REFUSED[complaint]))
    with pytest.raises(UnsupportedModel, match=complaint):
        read_config(tmp_path)
