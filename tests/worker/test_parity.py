"""The engine's numbers against transformers: every family, every way of cutting the work.

Covered, for PyTorch's kernels and the native ones: logits within 1e-4 and 32 greedy tokens, for
every supported family; then, on one family, the same tokens whatever the batch, the chunk size, the
cache, or a preemption. Not covered here: sampled decoding (test_sampling), shapes and types that
only the native kernels distinguish (test_native).
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from engines import generate, load, torch_engine
from kernels import native_library
from transformers import AutoModelForCausalLM

from penstock_worker.attention.interface import Sequence
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import Computation

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
COUNT = 32


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["torch", "native"])
def how(request: pytest.FixtureRequest) -> Computation:
    if request.param == "torch":
        return Computation()
    if native_library() is None:
        pytest.skip("no C++ compiler")
    return Computation(kernels=native_library(), threads=2)


def prompts(*lengths: int, vocab: int = 320) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in lengths]


def expected(model: Any, prompt: list[int], count: int = COUNT) -> list[int]:
    """Greedy tokens by transformers' own loop."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
    )
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, tiny_models.make("llama-gqa", folder)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_computes_what_transformers_computes(
    family: str, how: Computation, tmp_path: Path
) -> None:
    model = tiny_models.make(family, tmp_path)
    prompt = prompts(45)[0]
    batch = Batch(prompt, list(range(45)), [Sequence(0, 45, 0, [2, 0, 3])], list(range(45)))
    with torch.inference_mode():
        ours = load(tmp_path, how, num_blocks=4).logits(batch)
        theirs = model(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4
    assert generate(torch_engine(tmp_path, how=how), [prompt], COUNT) == [expected(model, prompt)]


def test_the_example_model_computes_what_transformers_computes(how: Computation) -> None:
    model = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()
    wanted = prompts(20, 70, vocab=model.config.vocab_size)
    got = generate(torch_engine(EXAMPLE, how=how), wanted, COUNT)
    assert got == [expected(model, prompt) for prompt in wanted]


@pytest.mark.parametrize("budget", [1, 7, 16, 33, 4096])
def test_chunks_and_batches_change_nothing(
    llama: tuple[Path, Any], budget: int, how: Computation
) -> None:
    folder, model = llama
    wanted = prompts(1, 16, 17, 40, 64)
    got = generate(torch_engine(folder, budget=budget, how=how), wanted, COUNT)
    assert got == [expected(model, prompt) for prompt in wanted]


def test_a_cached_prefix_changes_nothing(llama: tuple[Path, Any], how: Computation) -> None:
    folder, model = llama
    engine = torch_engine(folder, how=how)
    shared = prompts(48)[0]
    wanted = [shared, [*shared, 1, 2, 3], [*shared[:32], 9], shared]
    for prompt in wanted:
        assert generate(engine, [prompt], COUNT) == [expected(model, prompt)]
    assert engine.scheduler.prefix_hits >= 32 + 32 + 48


def test_preempted_requests_resume_as_if_nothing_had_happened(
    llama: tuple[Path, Any], how: Computation
) -> None:
    folder, model = llama
    wanted = prompts(30, 31, 32, 33)
    engine = torch_engine(folder, num_blocks=10, budget=64, how=how)
    assert generate(engine, wanted, COUNT) == [expected(model, prompt) for prompt in wanted]
    assert engine.scheduler.preemptions > 0


def test_the_same_without_a_prefix_cache(llama: tuple[Path, Any]) -> None:
    folder, model = llama
    wanted = prompts(30, 31, 32, 33)
    engine = torch_engine(folder, num_blocks=10, budget=64, caching=False)
    assert generate(engine, wanted, COUNT) == [expected(model, prompt) for prompt in wanted]
    assert engine.scheduler.prefix_hits == 0
    assert engine.pool.counts().free == 10


def test_sharded_checkpoints_load(llama: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = llama
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    prompt = prompts(20)[0]
    assert generate(torch_engine(tmp_path), [prompt], 8) == generate(
        torch_engine(folder), [prompt], 8
    )
