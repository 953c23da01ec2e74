"""A draft model guesses; what it has computed is always of the tokens it guesses behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from engines import GREEDY, drain, load, torch_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import native_library
from memory_model import MemoryModel
from memory_runner import MemoryRunner

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, Batch, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.request import Request
from penstock_worker.speculative.draft_model import DraftModel
from penstock_worker.speculative.guesses import Vocabulary
from penstock_worker.speculative.proposer import NOTHING, Proposal, Room

BLOCK, VOCAB = 4, 1000


def said(tokens: Sequence[int], _: Request | None = None) -> int:
    """Draw what depends on every token before it, and on where each of them is."""
    return sum(place * token for place, token in enumerate(tokens, 1)) % 13


def mostly(tokens: Sequence[int]) -> int:
    """Guess like `said`, but wrongly every third time."""
    return said(tokens) if len(tokens) % 3 else 14


class InTurns:
    """Asks a draft for so many steps, then pauses for so many."""

    def __init__(self, draft: DraftModel, asked: int, paused: int) -> None:
        self._draft = draft
        self._turn = [True] * asked + [False] * paused

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        asks = self._turn[0]
        self._turn = [*self._turn[1:], asks]
        if asks:
            return self._draft.propose(running, room)
        self._draft.pause()
        return [NOTHING] * len(running)


def make(
    model: MemoryModel | None,
    blocks: int = 64,
    budget: int = 64,
    seqs: int = 4,
    most: int = 4,
    caching: bool = True,
    turns: tuple[int, int] = (1, 0),
) -> Engine:
    draft = None
    if model is not None:
        guessing = DraftModel(
            model,
            num_blocks=blocks,
            block_size=BLOCK,
            vocabulary=Vocabulary(VOCAB, VOCAB),
            most=most,
            budget=budget,
        )
        draft = InTurns(guessing, *turns)
    return Engine(
        MemoryRunner(BLOCK, budget, said),
        BlockPool(blocks, BLOCK, caching=caching),
        vocab_size=VOCAB,
        max_model_len=blocks * BLOCK,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        proposer=draft,
    )


def memory(predict: Any = said) -> MemoryModel:
    return MemoryModel(BLOCK, VOCAB, predict)


def run(engine: Engine, asked: list[AddRequest]) -> tuple[dict[str, list[int]], list[Batch]]:
    for message in asked:
        assert engine.add(message) is None
    batches = drain(engine)
    assert engine.pool.counts().used == 0
    found: dict[str, list[int]] = {message.id: [] for message in asked}
    for batch in batches:
        for output in batch.outputs:
            found[output.id] += output.tokens
    return found, batches


def counted(batches: list[Batch]) -> tuple[int, int]:
    """Return how many tokens were guessed, and how many of them were right."""
    found = [batch.stats.drafted for batch in batches if batch.stats.drafted]
    return sum(one.tokens for one in found), sum(sum(one.accepted) for one in found)


REQUESTS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 25), st.integers(-1, 1), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=100)
@given(
    asked=REQUESTS,
    most=st.integers(1, 6),
    blocks=st.integers(14, 40),
    budget=st.integers(1, 30),
    seqs=st.integers(1, 5),
    caching=st.booleans(),
    turns=st.tuples(st.integers(1, 4), st.integers(0, 6)),
)
def test_a_draft_that_thinks_like_its_target_is_always_right(
    asked: list[Any],
    most: int,
    blocks: int,
    budget: int,
    seqs: int,
    caching: bool,
    turns: tuple[int, int],
) -> None:
    """Through chunks, shared prefixes, choices, preemption, pauses and guesses without room."""
    messages = [
        AddRequest(
            str(n),
            ([n % 3, 1, 2] * 10)[:length],
            output,
            Sampling(temperature=0.0 if n % 2 else 1.0, choice=n),
            priority=priority,
            beside="0" if beside and n else "",
        )
        for n, (length, output, priority, beside) in enumerate(asked)
    ]
    plain, _ = run(make(None, blocks, budget, seqs, caching=caching), messages)
    model = memory()
    engine = make(model, blocks, budget, seqs, most, caching, turns)
    for _ in range(2):  # the second time the prefix cache has the prompts
        tokens, batches = run(engine, messages)
        assert tokens == plain
        guessed, right = counted(batches)
        assert guessed == right
    assert model.widest <= max(budget, seqs)


@settings(deadline=None, max_examples=50)
@given(asked=REQUESTS, blocks=st.integers(14, 40), budget=st.integers(1, 30))
def test_wrong_guesses_are_computed_over(asked: list[Any], blocks: int, budget: int) -> None:
    messages = [
        AddRequest(str(n), [n % 3, 1, 2] * length, output)
        for n, (length, output, *_) in enumerate((max(1, a // 3), b) for a, b, *_ in asked)
    ]
    plain, _ = run(make(None, blocks, budget), messages)
    tokens, batches = run(make(memory(mostly), blocks, budget), messages)
    assert tokens == plain
    assert all(right in (0, 1, 2) for right in _rights(batches))


def _rights(batches: list[Batch]) -> list[int]:
    found = [batch.stats.drafted for batch in batches if batch.stats.drafted]
    return [len(one.accepted) for one in found]


@pytest.mark.parametrize("length", range(9, 14))
@pytest.mark.parametrize("budget", [5, 6, 8])
def test_choices_part_where_the_draft_has_begun_a_block(length: int, budget: int) -> None:
    wanted = [
        AddRequest(str(n), list(range(length)), 12, Sampling(choice=n), beside="0" if n else "")
        for n in range(3)
    ]
    guessed, right = counted(run(make(memory(), budget=budget), wanted)[1])
    assert guessed == right > 0


def test_right_guesses_take_a_fifth_of_the_steps() -> None:
    message = AddRequest("a", [1, 2, 3], 100)
    _, slow = run(make(None), [message])
    _, fast = run(make(memory()), [message])
    assert len(slow) == 100
    assert len(fast) == 21


def test_what_others_have_computed_is_not_computed_again() -> None:
    model = memory()
    engine = make(model)
    prompt = list(range(32))
    run(engine, [AddRequest("a", prompt, 8)])
    before = model.computed
    run(engine, [AddRequest("b", prompt, 8)])
    assert model.computed - before < 8 + BLOCK + 8


@pytest.mark.parametrize("limit", [1, 2])
def test_nothing_is_computed_for_an_answer_of_one_token(limit: int) -> None:
    model = memory()
    run(make(model), [AddRequest("a", list(range(20)), limit)])
    assert (model.computed > 0) == (limit > 2)


SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": Sampling(seed=3, temperature=0.8, repeatable=True),
    "penalties": Sampling(temperature=0.0, presence_penalty=0.4, repetition_penalty=1.1),
    "filters": Sampling(
        seed=3, temperature=1.1, top_k=9, top_p=0.9, min_p=0.01, logprobs=2, repeatable=True
    ),
    "bias": Sampling(temperature=0.0, logit_bias={5: 3.0, 6: 3.0}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a target, and a draft of another family that knows nothing of it."""
    target, draft = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("draft")
    tiny_models.make("llama-gqa", target)
    tiny_models.make("qwen2", draft)
    return target, draft


def execution(kernels: str, quantization: str = "none") -> ExecutionConfig:
    if kernels == "torch":
        return ExecutionConfig(quantization=quantization)
    if native_library() is None:
        pytest.skip("no C++ compiler")
    return ExecutionConfig(quantization=quantization, kernels=native_library())


def guessing(folder: Path, how: ExecutionConfig) -> DraftModel:
    size = read_config(folder).vocab_size
    return DraftModel(
        load(folder, how, num_blocks=256),
        num_blocks=256,
        block_size=16,
        vocabulary=Vocabulary(size, size),
        most=4,
        budget=64,
    )


def questions(sampling: Sampling, **options: Any) -> list[AddRequest]:
    return [
        AddRequest(str(n), [7, 8, 9, n] * (4 + 3 * n), 40, sampling, **options) for n in range(3)
    ]


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_a_model_says_the_same_whatever_a_draft_guesses(
    sampling: str, kernels: str, folders: tuple[Path, Path]
) -> None:
    how = execution(kernels)
    messages = questions(SAMPLINGS[sampling], min_tokens=20, stop_token_ids=[8, 40, 41])
    plain, _ = run(torch_engine(folders[0], how=how), messages)
    for draft in folders:
        engine = torch_engine(folders[0], how=how, proposer=guessing(draft, how))
        tokens, batches = run(engine, messages)
        assert tokens == plain
        guessed, right = counted(batches)
        assert guessed > right if draft == folders[1] else right > guessed / 2


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("formats", [("int8", "none"), ("none", "int8"), ("int4", "int4")])
def test_target_and_draft_may_be_quantised_differently(
    kernels: str, formats: tuple[str, str], folders: tuple[Path, Path]
) -> None:
    how, guess = (execution(kernels, one) for one in formats)
    plain, _ = run(torch_engine(folders[0], how=how), questions(GREEDY))
    engine = torch_engine(folders[0], how=how, proposer=guessing(folders[0], guess))
    tokens, batches = run(engine, questions(GREEDY))
    assert tokens == plain
    assert counted(batches)[1] > 0


def test_choices_share_a_prompt_and_are_guessed_for(folders: tuple[Path, Path]) -> None:
    wanted = [
        AddRequest(
            str(n),
            [7, 8, 9] * 9,
            30,
            Sampling(seed=5, choice=n, repeatable=True),
            beside="0" if n else "",
        )
        for n in range(4)
    ]
    plain, _ = run(torch_engine(folders[0]), wanted)
    engine = torch_engine(folders[0], proposer=guessing(folders[0], ExecutionConfig()))
    tokens, batches = run(engine, wanted)
    assert tokens == plain
    guessed, right = counted(batches)
    assert right > 0.9 * guessed > 0


def test_a_draft_with_another_vocabulary_guesses_what_both_know(
    folders: tuple[Path, Path],
) -> None:
    size = read_config(folders[0]).vocab_size
    for target, draft in ((size, 40), (40, size)):
        proposer = DraftModel(
            MemoryModel(16, size, lambda tokens: len(tokens) % size),
            num_blocks=256,
            block_size=16,
            vocabulary=Vocabulary(target, draft),
            most=4,
            budget=64,
        )
        plain, _ = run(torch_engine(folders[0]), questions(GREEDY))
        assert run(torch_engine(folders[0], proposer=proposer), questions(GREEDY))[0] == plain
