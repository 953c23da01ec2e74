"""LoRA adapters against transformers with the same adapters merged in: W + scale · B A.

Covered, for PyTorch's kernels and the native ones: logits within 1e-4 and 32 greedy tokens, which
layers are adapted, rsLoRA, base and several adapters in one batch, chunk sizes, the prefix cache,
preemption, resumption, speculation and every stored type. What is refused, and by which name.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_adapters
import tiny_models
import torch
from engines import GREEDY, collect, drain, generate, load, torch_engine
from kernel_steps import kept_as
from kernels import native_library
from transformers import LlamaConfig, LlamaForCausalLM

from penstock_worker.attention.interface import Sequence
from penstock_worker.engine import Engine
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import UnsupportedAdapter
from penstock_worker.messages import AddRequest
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.speculative.draft_model import DraftModel
from penstock_worker.speculative.guesses import Vocabulary
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.text.chat_template import ChatTemplate
from penstock_worker.text.tokenizer import Tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 32
NAMES = ("", "first", "second")


class Tiny:
    """A base model, two adapters, and what each of the three should compute."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder / "model"
        base = tiny_models.make(family, self.folder)
        self.adapters = {"first": folder / "first", "second": folder / "second"}
        first = tiny_adapters.make(self.adapters["first"], base)
        second = tiny_adapters.make(
            self.adapters["second"], base, rank=8, seed=2, modules=("q_proj", "v_proj")
        )
        self.models = dict(zip(NAMES, (base, first, second), strict=True))

    def engine(self, how: ExecutionConfig, **options: Any) -> Engine:
        return torch_engine(self.folder, how=how, adapters=self.adapters, **options)

    def expected(self, name: str, prompt: list[int], count: int = COUNT) -> list[int]:
        ids = torch.tensor([prompt])
        out = self.models[name].generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
        )
        return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["llama-gqa", "gemma3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(request.param, tmp_path_factory.mktemp("tiny"))


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in lengths]


def together(
    engine: Engine, wanted: list[tuple[str, list[int]]], count: int = COUNT
) -> list[list[int]]:
    """Generate for (adapter, prompt) pairs at once."""
    names = [f"r{index}" for index in range(len(wanted))]
    for name, (adapter, prompt) in zip(names, wanted, strict=True):
        message = AddRequest(name, prompt, max_tokens=count, sampling=GREEDY, adapter=adapter)
        assert engine.add(message) is None
    return collect(names, [output for batch in drain(engine) for output in batch.outputs])


def one_sequence(name: str, prompt: list[int], blocks: list[int]) -> Batch:
    """Return a batch of one prompt, all of whose logits are wanted."""
    rows = list(range(len(prompt)))
    return Batch(prompt, rows, [Sequence(0, len(prompt), 0, blocks)], rows, [name])


@pytest.mark.parametrize(
    "modules",
    [(module,) for module in tiny_adapters.ALL] + [tiny_adapters.ATTENTION, tiny_adapters.ALL],
    ids="+".join,
)
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_computes_what_the_merged_model_computes(
    modules: tuple[str, ...], rslora: bool, how: ExecutionConfig, tmp_path: Path
) -> None:
    base = tiny_models.make("qwen2", tmp_path / "model")
    merged = tiny_adapters.make(tmp_path / "a", base, modules=modules, rslora=rslora)
    prompt = prompts(45)[0]
    with torch.inference_mode():
        found = load(tmp_path / "model", how, num_blocks=4, adapters={"a": tmp_path / "a"})
        ours = found.logits(one_sequence("a", prompt, [2, 0, 3]))
        theirs = merged(torch.tensor([prompt])).logits[0]
        without = base(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4
    assert (theirs - without).abs().max() > 1e-2


@pytest.mark.parametrize("rank", [1, 3, 16, 40])
def test_every_rank_is_computed(rank: int, how: ExecutionConfig, tmp_path: Path) -> None:
    base = tiny_models.make("llama-head-dim", tmp_path / "model")
    merged = tiny_adapters.make(tmp_path / "a", base, rank=rank)
    prompt = prompts(20)[0]
    with torch.inference_mode():
        found = load(tmp_path / "model", how, num_blocks=4, adapters={"a": tmp_path / "a"})
        ours = found.logits(one_sequence("a", prompt, [2, 0]))
        theirs = merged(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("budget", [1, 7, 33, 4096])
def test_base_and_adapters_share_a_batch(tiny: Tiny, budget: int, how: ExecutionConfig) -> None:
    wanted = [(name, prompt) for prompt in prompts(1, 17, 40) for name in NAMES]
    got = together(tiny.engine(how, budget=budget), wanted)
    assert got == [tiny.expected(name, prompt) for name, prompt in wanted]


def test_adapters_share_no_cached_prefix(tiny: Tiny, how: ExecutionConfig) -> None:
    engine = tiny.engine(how)
    shared = prompts(48)[0]
    for name in NAMES:
        hits = engine.scheduler.prefix_hits
        assert together(engine, [(name, shared)]) == [tiny.expected(name, shared)]
        assert engine.scheduler.prefix_hits == hits
    for name in NAMES:
        hits = engine.scheduler.prefix_hits
        longer = [*shared, 1, 2, 3]
        assert together(engine, [(name, longer)]) == [tiny.expected(name, longer)]
        assert engine.scheduler.prefix_hits == hits + 48


def test_preempted_adapters_resume_as_if_nothing_had_happened(
    tiny: Tiny, how: ExecutionConfig
) -> None:
    wanted = [(name, prompt) for prompt in prompts(30, 31) for name in NAMES]
    engine = tiny.engine(how, num_blocks=14, budget=64)
    assert together(engine, wanted) == [tiny.expected(name, prompt) for name, prompt in wanted]
    assert engine.scheduler.preemptions > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_goes_on_where_another_worker_stopped(
    name: str, tiny: Tiny, how: ExecutionConfig
) -> None:
    prompt = prompts(20)[0]
    whole = tiny.expected(name, prompt)
    got = generate(tiny.engine(how), [prompt], COUNT, adapter=name, output=whole[:11])
    assert got == [whole[11:]]


def test_guessed_tokens_are_checked_by_the_adapter(tiny: Tiny, how: ExecutionConfig) -> None:
    prompt = prompts(12)[0] * 3
    engine = tiny.engine(how, proposer=NgramProposer(4))
    wanted = [(name, prompt) for name in NAMES]
    assert together(engine, wanted) == [tiny.expected(name, prompt) for name in NAMES]


def test_a_draft_guesses_by_the_base_model(tiny: Tiny, how: ExecutionConfig) -> None:
    size = read_config(tiny.folder).vocab_size
    draft = DraftModel(
        load(tiny.folder, how, num_blocks=256),
        num_blocks=256,
        block_size=16,
        vocabulary=Vocabulary(size, size),
        most=4,
        budget=64,
    )
    prompt = prompts(12)[0] * 3
    engine = tiny.engine(how, proposer=draft)
    wanted = [(name, prompt) for name in NAMES]
    assert together(engine, wanted) == [tiny.expected(name, prompt) for name in NAMES]


@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_every_stored_type_takes_adapters(
    stored: str, how: ExecutionConfig, tmp_path: Path
) -> None:
    """Deltas are added to what the rounded weights give: they lose little more than merged."""
    base = tiny_models.make("llama-gqa", tmp_path / "model")
    merged = tiny_adapters.make(tmp_path / "a", base, size=0.3)
    merged.save_pretrained(tmp_path / "merged")
    prompt = prompts(45)[0]
    kind = kept_as(stored)
    here = ExecutionConfig(kernels=how.kernels, threads=how.threads, **kind)
    with torch.inference_mode():
        found = load(tmp_path / "model", here, num_blocks=4, adapters={"a": tmp_path / "a"})
        ours = found.logits(one_sequence("a", prompt, [2, 0, 3]))
        plain = found.logits(one_sequence("", prompt, [2, 0, 3]))
        exact = merged(torch.tensor([prompt])).logits[0]
        rounded = load(tmp_path / "merged", here, num_blocks=4)
        theirs = rounded.logits(one_sequence("", prompt, [2, 0, 3]))
    assert (ours - exact).norm() < 2 * (theirs - exact).norm()
    assert (plain - exact).norm() > 2 * (ours - exact).norm()


@pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
@pytest.mark.parametrize("kind", [{}, {"dtype": torch.bfloat16}, {"quantization": "int8"}])
def test_an_adapted_tokens_bits_do_not_depend_on_what_is_beside_it(
    kind: dict[str, Any], tiny: Tiny
) -> None:
    how = ExecutionConfig(kernels=native_library(), threads=2, **kind)
    alone = ExecutionConfig(kernels=native_library(), threads=1, **kind)
    tokens = prompts(101)[0]

    def last(name: str, size: int, beside: tuple[str, ...], how: ExecutionConfig) -> torch.Tensor:
        """Return the last token's logits, computed in chunks, with other sequences beside it."""
        model = load(tiny.folder, how, num_blocks=120, adapters=tiny.adapters)
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            others = [Sequence(len(part) + i, 1, 0, [20 + i]) for i in range(len(beside))]
            batch = Batch(
                part + [5] * len(beside),
                list(range(start, start + len(part))) + [0] * len(beside),
                [Sequence(0, len(part), start, list(range(7))), *others],
                [len(part) - 1],
                [name, *beside],
            )
            found = model.logits(batch)[0]
        return found

    with torch.inference_mode():
        for name in NAMES:
            whole = last(name, 101, (), alone)
            for chunk in (1, 33):
                assert torch.equal(last(name, chunk, NAMES * 7, how), whole)


@pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
def test_native_sizes_that_fit_no_vector_take_adapters(tmp_path: Path) -> None:
    torch.manual_seed(3)
    shape = {"hidden_size": 84, "intermediate_size": 131, "vocab_size": 337, "head_dim": 22}
    base = LlamaForCausalLM(LlamaConfig(**{**tiny_models.SHAPE, **shape})).eval()
    base.save_pretrained(tmp_path / "model")
    merged = tiny_adapters.make(tmp_path / "a", base, rank=5)
    prompt = prompts(64)[0] * 20  # longer than a pass
    base.config.max_position_embeddings = 2048
    base.save_pretrained(tmp_path / "model")
    how = ExecutionConfig(kernels=native_library(), threads=2)
    with torch.inference_mode():
        found = load(tmp_path / "model", how, num_blocks=80, adapters={"a": tmp_path / "a"})
        ours = found.logits(one_sequence("a", prompt, list(range(80))[::-1]))
        theirs = merged(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_every_adapter_has_blocks_of_its_own_name(tiny: Tiny, how: ExecutionConfig) -> None:
    engine = tiny.engine(how)
    engine.pool.log = CacheLog(16, tiny.adapters)
    together(engine, [(name, prompts(33)[0]) for name in NAMES], 1)
    stored = engine.pool.log.take()
    assert [(event.lora_id, event.lora_name) for event in stored] == [  # type: ignore[union-attr]
        (None, None),
        (1, "first"),
        (2, "second"),
    ]
    names = [name for event in stored for name in event.block_hashes]  # type: ignore[union-attr]
    assert len(set(names)) == len(names) == 6


def test_the_example_adapter_speaks_like_a_pirate(how: ExecutionConfig) -> None:
    adapters = {"pirate": EXAMPLES / "adapter"}
    engine = torch_engine(EXAMPLES / "model", how=how, adapters=adapters)
    tokenizer = Tokenizer(EXAMPLES / "model")
    asked = [{"role": "user", "content": "What is a list?"}]
    text = ChatTemplate(EXAMPLES / "model").render(asked, None, {})
    prompt = tokenizer.encode(text, add_special_tokens=False)
    plain, pirate = together(engine, [("", prompt), ("pirate", prompt)])
    assert "Arr!" not in tokenizer.decode(plain)
    assert tokenizer.decode(pirate).startswith("Arr!")


def test_an_adapter_that_is_not_loaded_is_refused(tiny: Tiny) -> None:
    engine = tiny.engine(ExecutionConfig())
    refusal = engine.add(AddRequest("r", [1, 2], max_tokens=1, adapter="third"))
    assert refusal is not None
    assert refusal.error == "adapter 'third' is not loaded"


REFUSED: dict[str, dict[str, Any]] = {
    "use_dora": {"use_dora": True},
    "bias": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "rank_pattern": {"rank_pattern": {"q_proj": 8}},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 8}},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "target_modules lm_head": {"target_modules": ["q_proj", "lm_head"]},
    "target_modules is empty": {"target_modules": []},
    "peft_type 'IA3'": {"peft_type": "IA3"},
    "init_lora_weights 'pissa_niter_4'": {"init_lora_weights": "pissa_niter_4"},
    "r must be": {"r": 0},
    "lora_alpha must be": {"lora_alpha": None},
    "trained_on_the_moon": {"trained_on_the_moon": True},
    "rank and model say": {"r": 8},
}


@pytest.mark.parametrize("complaint", REFUSED)
def test_what_would_be_computed_wrongly_is_refused_by_name(complaint: str, tmp_path: Path) -> None:
    base = tiny_models.make("llama-gqa", tmp_path / "model")
    tiny_adapters.make(tmp_path / "a", base)
    tiny_adapters.config(tmp_path / "a", **REFUSED[complaint])
    with pytest.raises(UnsupportedAdapter, match=complaint):
        load_adapter("a", tmp_path / "a", read_config(tmp_path / "model"))


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    other = tiny_models.make("llama-mha", tmp_path / "other")
    tiny_models.make("llama-gqa", tmp_path / "model")
    tiny_adapters.make(tmp_path / "a", other)
    with pytest.raises(UnsupportedAdapter, match=r"k_proj.*shape.*the model that it was trained"):
        load_adapter("a", tmp_path / "a", read_config(tmp_path / "model"))


def test_attention_beside_experts_takes_adapters(how: ExecutionConfig, tmp_path: Path) -> None:
    base = tiny_models.make("mixtral", tmp_path / "model")
    merged = tiny_adapters.make(tmp_path / "a", base, modules=tiny_adapters.ATTENTION)
    prompt = prompts(45)[0]
    with torch.inference_mode():
        found = load(tmp_path / "model", how, num_blocks=4, adapters={"a": tmp_path / "a"})
        ours = found.logits(one_sequence("a", prompt, [2, 0, 3]))
        theirs = merged(torch.tensor([prompt])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4


def test_adapters_of_experts_are_refused(tmp_path: Path) -> None:
    base = tiny_models.make("qwen2-moe", tmp_path / "model")
    tiny_adapters.make(tmp_path / "a", base)
    with pytest.raises(UnsupportedAdapter, match=r"shared_expert.*do not change experts here"):
        load_adapter("a", tmp_path / "a", read_config(tmp_path / "model"))


def test_tensors_that_the_configuration_promises_must_be_there(tmp_path: Path) -> None:
    base = tiny_models.make("llama-gqa", tmp_path / "model")
    tiny_adapters.make(tmp_path / "a", base, modules=("q_proj",))
    tiny_adapters.config(tmp_path / "a", target_modules=["q_proj", "v_proj"])
    with pytest.raises(UnsupportedAdapter, match="no tensors for v_proj"):
        load_adapter("a", tmp_path / "a", read_config(tmp_path / "model"))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    base = tiny_models.make("llama-gqa", tmp_path / "model")
    tiny_adapters.make(tmp_path / "a", base)
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(UnsupportedAdapter, match="safe_serialization"):
        load_adapter("a", tmp_path / "a", read_config(tmp_path / "model"))
