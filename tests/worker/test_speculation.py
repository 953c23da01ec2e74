"""Guesses change nothing but the number of steps: the output is the same, token for token."""

from collections.abc import Sequence
from typing import Any

import pytest
import tiny_models
from engines import GREEDY, collect, drain, torch_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import native_library
from memory_runner import MemoryRunner

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, Batch, FinishReason, Sampling
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.request import Request
from penstock_worker.speculative.accept import agreed
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.speculative.proposer import Proposal, Proposer, Room

BLOCK = 4


def looping(tokens: Sequence[int], request: Request) -> int:
    """Draw what is often, but not always, what followed before."""
    salt = request.sampling.seed + request.sampling.choice
    return (tokens[-1] + 1) % 7 if len(tokens) % (5 + salt) else (sum(tokens[-9:]) * 5) % 11


class Fixed:
    """Guesses what it is told to."""

    def __init__(self, guess: list[int]) -> None:
        self.guess = guess

    def propose(self, running: Sequence[Request], room: Room) -> list[Proposal]:
        return [Proposal(list(self.guess), []) for _ in running]


def make(proposer: Proposer | None, blocks: int = 64, budget: int = 64, seqs: int = 4) -> Engine:
    return Engine(
        MemoryRunner(BLOCK, budget, looping),
        BlockPool(blocks, BLOCK),
        vocab_size=1000,
        max_model_len=blocks * BLOCK,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        proposer=proposer,
    )


def run(engine: Engine, asked: list[AddRequest]) -> tuple[list[list[int]], list[Batch]]:
    for message in asked:
        assert engine.add(message) is None
    batches = drain(engine)
    assert engine.pool.counts().used == 0
    outputs = [output for batch in batches for output in batch.outputs]
    return collect([message.id for message in asked], outputs), batches


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=7))
def test_guesses_stand_up_to_the_first_that_is_wrong(drafts: list[int], drawn: list[int]) -> None:
    count = agreed(drafts, drawn)
    assert drafts[:count] == drawn[:count]
    assert count == min(len(drafts), len(drawn)) or drafts[count] != drawn[count]


@settings(deadline=None, max_examples=150)
@given(
    asked=st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 25), st.integers(-1, 1)),
        min_size=1,
        max_size=6,
    ),
    tokens=st.integers(1, 6),
    blocks=st.integers(14, 40),
    budget=st.integers(1, 30),
    seqs=st.integers(1, 5),
)
def test_whatever_is_guessed_the_tokens_stay(
    asked: list[Any], tokens: int, blocks: int, budget: int, seqs: int
) -> None:
    messages = [
        AddRequest(str(n), [n % 3, 1, 2] * length, output, Sampling(seed=n), priority=priority)
        for n, (length, output, priority) in enumerate((max(1, a // 3), b, c) for a, b, c in asked)
    ]
    plain, _ = run(make(None, blocks, budget, seqs), messages)
    assert run(make(NgramProposer(tokens), blocks, budget, seqs), messages)[0] == plain
    assert run(make(Fixed([1, 2, 3]), blocks, budget, seqs), messages)[0] == plain


def test_what_repeats_takes_fewer_steps() -> None:
    message = AddRequest("a", [1, 2, 3], 100, Sampling(seed=90))
    plain, slow = run(make(None), [message])
    tokens, fast = run(make(NgramProposer(4)), [message])
    assert tokens == plain
    assert len(fast) < len(slow) / 3
    drafted = [batch.stats.drafted for batch in fast if batch.stats.drafted]
    accepted = sum(sum(one.accepted) for one in drafted)
    assert accepted == len(slow) - len(fast)
    assert accepted <= sum(one.tokens for one in drafted)


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_no_token_too_many(limit: int) -> None:
    message = AddRequest("a", [1, 2, 3, 4, 5, 6, 0, 1, 2, 3], limit, Sampling(seed=90))
    (tokens,), batches = run(make(NgramProposer(4)), [message])
    assert len(tokens) == limit
    assert batches[-1].outputs[-1].finish_reason is FinishReason.LENGTH


def test_a_stop_token_among_the_guesses_ends_it_there() -> None:
    prompt = [1, 2, 3, 4, 5, 6, 0, 1, 2]
    message = AddRequest("a", prompt, 50, Sampling(seed=90), stop_token_ids=[5])
    (tokens,), batches = run(make(NgramProposer(4)), [message])
    assert tokens == [3, 4, 5]
    assert batches[-1].outputs[-1].finish_reason is FinishReason.STOP


def test_a_guess_costs_nobody_a_block() -> None:
    long = [AddRequest(str(n), [n] * 10, 10, Sampling(seed=n)) for n in range(3)]
    engine = make(Fixed([9] * 20), blocks=16, seqs=3)
    run(engine, long)
    assert engine.scheduler.preemptions == 0


def test_the_latest_of_the_longest_matches_is_taken() -> None:
    def guess(tokens: list[int]) -> list[int]:
        message = AddRequest("a", tokens, 1)
        request = Request.from_message(message, arrival=0, now=0.0, max_model_len=100)
        request.computed = len(tokens) - 1
        return NgramProposer(2).propose([request], lambda _, count: count)[0].tokens

    assert guess([1, 2, 3, 9, 1, 2, 4, 9, 1, 2]) == [4, 9]
    assert guess([5, 1, 2, 3, 9, 1, 2, 4, 8, 5, 1, 2]) == [3, 9]
    assert guess([1, 2, 3, 4]) == []
    assert guess([1]) == []


SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": Sampling(seed=3, temperature=0.8),
    "penalties": Sampling(temperature=0.0, presence_penalty=0.4, repetition_penalty=1.1),
    "filters": Sampling(seed=3, temperature=1.1, top_k=9, top_p=0.9, min_p=0.01, logprobs=2),
    "bias": Sampling(temperature=0.0, logit_bias={5: 3.0, 6: 3.0}),
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_a_model_says_the_same_with_guesses_and_without(
    sampling: str, kernels: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    how = ExecutionConfig()
    if kernels == "native":
        if native_library() is None:
            pytest.skip("no C++ compiler")
        how = ExecutionConfig(kernels=native_library())
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.make("llama-gqa", folder)
    messages = [
        AddRequest(
            str(n),
            [7, 8, 9, n] * 8,
            60,
            SAMPLINGS[sampling],
            min_tokens=20,
            stop_token_ids=[8, 40, 41],
        )
        for n in range(3)
    ]
    plain, slow = run(torch_engine(folder, how=how), messages)
    for proposer in (NgramProposer(4), Fixed([8, 9])):
        assert run(torch_engine(folder, how=how, proposer=proposer), messages)[0] == plain
    assert sum(len(tokens) for tokens in plain) >= 60
    assert slow
