"""Answers that read chosen blocks only: what is chosen, and what must not depend on how."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from chosen_attention import ChosenAttention
from engines import collect, drain, generate, torch_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_steps import native
from kernels import native_library
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from penstock_contract.blocks import SEED, block_hash
from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.model.weights import Weights
from penstock_worker.native import build
from penstock_worker.native.levels import this_machine
from penstock_worker.runner import ModelRunner
from penstock_worker.sparsity import Sparsity
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.speculative.paced import PacedProposer

with_kernels = pytest.mark.skipif(native_library() is None, reason="no C++ compiler")
EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
LAYERS, BLOCK = 4, 4
SPARSITY = Sparsity(5, BLOCK, (2, 3))
PROMPT, TOTAL = 50, 90
"""Tokens of the prompt, and with the answer's."""
TOKENS = torch.randint(0, 320, (TOTAL,), generator=torch.Generator().manual_seed(4)).tolist()
PROMPTS = [[(7 * i * i + 3 * i + n) % 300 for i in range(30 + 9 * n)] for n in range(4)]


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random model of four layers, whose attention is far from uniform."""
    return checkpoint(tmp_path_factory.mktemp("model"))


def checkpoint(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(3)
    shape = {**tiny_models.SHAPE, "num_hidden_layers": LAYERS, **changes}
    with torch.inference_mode(mode=False):
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder)
    return folder


def sparse(sparsity: Sparsity = SPARSITY, **changes: Any) -> ExecutionConfig:
    return native(sparsity=sparsity, **changes)


def opened(folder: Path, how: ExecutionConfig, num_blocks: int = 64) -> tuple[Model, KVPool]:
    config = read_config(folder)
    size, layers = how.sparsity.block_size or BLOCK, how.sparsity.layers
    pool = KVPool.of(config, num_blocks, size, how.kv_dtype, bounded=layers)
    return load_model(folder, config, pool, config.max_position, how), pool


def computed(model: Model, cuts: list[int], *, beside: int = 0, size: int = BLOCK) -> Tensor:
    """Return the logits of all tokens, computed in pieces that begin at the cuts."""
    table = list(range(40))[::-1][: -(-TOTAL // size)]
    found = []
    for start, end in zip([0, *cuts], [*cuts, TOTAL], strict=True):
        count = end - start
        others = [Sequence(count + i, 1, 0, [50 + i], 1) for i in range(beside)]
        batch = Batch(
            TOKENS[start:end] + [5] * beside,
            [*range(start, end), *[0] * beside],
            [Sequence(0, count, start, table, PROMPT), *others],
            list(range(count)),
        )
        found.append(model.logits(batch))
    return torch.cat(found)


def by_the_paper(folder: Path, sparsity: Sparsity) -> tuple[Tensor, ChosenAttention]:
    """Return the logits as plain PyTorch computes them, and what chose the blocks."""
    config = read_config(folder)
    pool = KVPool.of(config, 64, sparsity.block_size, torch.float32)
    attention = ChosenAttention(pool, sparsity, config.query_scale)
    with Checkpoint(folder, torch.float32, torch.device("cpu")) as found:
        model = TorchDecoder(config, Weights(config, found), attention, config.max_position)
    return computed(model, [], size=sparsity.block_size), attention


@with_kernels
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (4, 1)], ids=str)
@pytest.mark.parametrize(("blocks", "size"), [(4, 4), (9, 4), (4, 16), (13, 3)])
def test_it_reads_the_blocks_that_the_paper_would(
    heads: tuple[int, int], blocks: int, size: int, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, num_attention_heads=heads[0], num_key_value_heads=heads[1])
    sparsity = Sparsity(blocks, size, (2, 3))
    theirs, attention = by_the_paper(folder, sparsity)
    assert attention.margin > 1e-4  # nobody may choose otherwise for another order of a sum
    assert attention.left_out > 100
    ours = computed(opened(folder, sparse(sparsity, threads=2))[0], [], size=size)
    assert (ours - theirs).abs().max() < 1e-3
    dense = computed(opened(folder, native())[0], [])
    first = max(PROMPT, sparsity.tokens)
    assert (ours - dense)[:first].abs().max() < 1e-3
    assert (ours - dense)[first:].abs().max() > 0.1


@with_kernels
@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
def test_every_instruction_set_chooses_the_same(level: Any, folder: Path) -> None:
    theirs, _ = by_the_paper(folder, SPARSITY)
    kernels = build.build(level, build.cache_folder())
    how = ExecutionConfig(kernels=kernels, sparsity=SPARSITY)
    assert (computed(opened(folder, how)[0], []) - theirs).abs().max() < 1e-3


@with_kernels
@pytest.mark.parametrize("kept_as", [None, torch.bfloat16], ids=str)
def test_a_budget_for_the_whole_context_is_the_same_to_the_last_bit(
    kept_as: torch.dtype | None, folder: Path
) -> None:
    covering = Sparsity(-(-TOTAL // BLOCK), BLOCK, (2, 3))
    found = computed(opened(folder, sparse(covering, kept_as=kept_as))[0], [PROMPT, PROMPT + 1])
    dense = computed(opened(folder, native(kept_as=kept_as))[0], [PROMPT, PROMPT + 1])
    assert torch.equal(found, dense)


@with_kernels
@pytest.mark.parametrize("kept_as", [None, torch.bfloat16], ids=str)
def test_a_token_gets_the_same_bits_whatever_is_computed_with_it(
    kept_as: torch.dtype | None, folder: Path
) -> None:
    one_by_one, _ = opened(folder, sparse(kept_as=kept_as))
    expected = computed(one_by_one, list(range(1, TOTAL)))
    model, _ = opened(folder, sparse(kept_as=kept_as, threads=2))

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sets(st.integers(1, TOTAL - 1), max_size=6), st.integers(0, 3))
    def check(cuts: set[int], beside: int) -> None:
        assert torch.equal(computed(model, sorted(cuts), beside=beside), expected)

    check()


@with_kernels
@pytest.mark.parametrize("kept_as", [None, torch.bfloat16], ids=str)
def test_full_blocks_have_the_bounds_of_their_keys_also_when_written_again(
    kept_as: torch.dtype | None, folder: Path
) -> None:
    model, pool = opened(folder, sparse(kept_as=kept_as))
    table = list(range(40))[::-1][: TOTAL // BLOCK]
    for cuts in ([], [7, 51, 52, 53, 54, 81]):
        for bounds in pool.bounds.values():
            bounds.fill_(77.0)
        computed(model, cuts)
        assert_bounded(pool, table)
        assert all((bounds[50:] == 77.0).all() for bounds in pool.bounds.values())


def assert_bounded(pool: KVPool, blocks: list[int]) -> None:
    assert list(pool.bounds) == [2, 3]
    for layer, bounds in pool.bounds.items():
        keys = pool.keys[layer].view(pool.num_blocks, pool.block_size, *pool.keys[layer].shape[1:])
        assert torch.equal(bounds[blocks, :, 0], keys[blocks].amin(1))
        assert torch.equal(bounds[blocks, :, 1], keys[blocks].amax(1))


def with_pool(folder: Path, how: ExecutionConfig, **options: Any) -> tuple[Engine, KVPool]:
    model, pool = opened(folder, how, options.get("num_blocks", 256))
    return torch_engine(folder, how=how, runner=ModelRunner(model, pool), **options), pool


def alone(folder: Path, prompt: list[int], count: int, **options: Any) -> list[int]:
    engine = torch_engine(folder, how=sparse(), block_size=BLOCK, caching=False)
    return generate(engine, [prompt], count, **options)[0]


@with_kernels
def test_batches_chunks_preemption_and_guesses_change_no_token(folder: Path) -> None:
    how = sparse(threads=2)
    apart = [alone(folder, prompt, 40) for prompt in PROMPTS]
    dense = torch_engine(folder, how=native(), block_size=BLOCK)
    assert generate(dense, PROMPTS, 40) != apart
    together = torch_engine(folder, how=how, block_size=BLOCK, budget=24, num_blocks=52)
    for _ in range(2):
        assert generate(together, PROMPTS, 40) == apart
    assert together.scheduler.preemptions
    guessing = torch_engine(folder, how=how, block_size=BLOCK, proposer=NgramProposer(4))
    assert generate(guessing, PROMPTS, 40) == apart


@with_kernels
def test_choices_that_share_a_prompt_are_what_each_would_be_alone(folder: Path) -> None:
    engine, pool = with_pool(folder, sparse(), block_size=BLOCK)
    for prompt in (PROMPTS[0], PROMPTS[0] + [3] * 2):  # its last block is full, or is not
        sampled = [Sampling(temperature=1.0, seed=5, choice=choice) for choice in range(3)]
        names = [f"c{choice}" for choice in range(3)]
        for name, sampling in zip(names, sampled, strict=True):
            beside = "c0" if sampling.choice else ""
            message = AddRequest(name, prompt, 40, sampling=sampling, beside=beside)
            assert engine.add(message) is None
        outputs = [output for batch in drain(engine) for output in batch.outputs]
        found = collect(names, outputs)
        assert found == [alone(folder, prompt, 40, sampling=each) for each in sampled]
        assert_bounded(pool, cached(engine, prompt))


def cached(engine: Engine, tokens: list[int]) -> list[int]:
    """Return the blocks in the prefix cache that a text begins with."""
    names = [SEED]
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        names.append(block_hash(names[-1], tokens[start : start + BLOCK], b""))
    return engine.pool.find(names[1:])


@with_kernels
@pytest.mark.parametrize("length", [8, 41])
def test_answers_serve_the_cache_only_as_far_as_they_read_everything(
    length: int, folder: Path
) -> None:
    engine, pool = with_pool(folder, sparse(), block_size=BLOCK)
    prompt = TOKENS[:length]
    said = generate(engine, [prompt], 40)[0]
    again = cached(engine, prompt + said)
    assert len(again) == max(length, SPARSITY.tokens) // BLOCK
    assert_bounded(pool, again)
    following = prompt + said + [7, 8, 9]
    assert generate(engine, [following], 30)[0] == alone(folder, following, 30)
    assert len(cached(engine, following)) == len(following) // BLOCK
    assert_bounded(pool, cached(engine, following))
    # What the second prompt left is not what the first request's answer would have computed.
    assert generate(engine, [prompt], 40)[0] == said


@with_kernels
def test_a_stream_goes_on_elsewhere_as_it_would_have(folder: Path) -> None:
    said = scored(torch_engine(folder, how=sparse(), block_size=BLOCK, caching=False), [])
    tokens = [token for token, _ in said]
    elsewhere = torch_engine(folder, how=sparse(), block_size=BLOCK, budget=24)
    # The same text as a prompt, whose KV another request has left, is another thing.
    generate(elsewhere, [PROMPTS[1] + tokens], 2)
    for known in (1, 17, 39):
        assert scored(elsewhere, tokens[:known]) == said[known:]


def scored(engine: Engine, known: list[int]) -> list[tuple[int, float]]:
    """Return the tokens of an answer behind those that are known, and how likely each was."""
    sampling = Sampling(temperature=0.0, logprobs=0)
    assert engine.add(AddRequest("a", PROMPTS[1], 40, sampling, output=known)) is None
    outputs = [output for batch in drain(engine) for output in batch.outputs]
    tokens = [token for output in outputs for token in output.tokens]
    logprobs = [found.logprob for output in outputs for found in output.logprobs]
    return list(zip(tokens, logprobs, strict=True))


def guessing(method: str, model: str) -> Engine:
    """Return an engine of the example model that guesses in every step, whatever the clock says."""
    config = EngineConfig(
        str(EXAMPLE),
        threads=1,
        block_size=8,
        sparse_attention_tokens=64,
        kv_cache_bytes=16 << 20,
        speculative=method,
        speculative_model=str(EXAMPLE / model) if model else "",
    )
    engine, _ = build_engine(config)
    if method != "none":
        assert isinstance(engine._proposer, PacedProposer)
        engine._proposer = engine._proposer._proposer
    return engine


@with_kernels
def test_whoever_guesses_the_model_says_the_same() -> None:
    tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    text = (EXAMPLE / "heldout.txt").read_text(encoding="utf-8")[:2000]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    prompts = [ids[:60], ids[100:250]]
    said = generate(guessing("none", ""), prompts, 60)
    for method, model in (("draft", "draft"), ("eagle3", "eagle")):
        engine = guessing(method, model)
        names = ["a", "b"]
        for name, prompt in zip(names, prompts, strict=True):
            engine.add(AddRequest(name, prompt, 60, sampling=Sampling(temperature=0.0)))
        batches = drain(engine)
        assert collect(names, [output for batch in batches for output in batch.outputs]) == said
        guessed = [batch.stats.drafted for batch in batches if batch.stats.drafted]
        assert sum(sum(drafted.accepted) for drafted in guessed) > 5
