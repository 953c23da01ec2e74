"""Choices of one prompt: computed once, kept once, and apart from where they differ."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import tiny_models
import torch
from engines import collect, drain, torch_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_runner import MemoryRunner

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, FinishReason, Sampling
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.request import Request

BLOCK = 4


def spread(tokens: Sequence[int], request: Request) -> int:
    """Draw what depends on the choice and on everything before."""
    return (sum(tokens) * 7 + len(tokens) + request.sampling.choice * 31) % 50


def make(
    blocks: int = 64, *, budget: int = 64, seqs: int = 8, caching: bool = True
) -> tuple[Engine, MemoryRunner]:
    runner = MemoryRunner(BLOCK, budget, spread)
    engine = Engine(
        runner,
        BlockPool(blocks, BLOCK, caching=caching),
        vocab_size=1000,
        max_model_len=blocks * BLOCK,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
    )
    return engine, runner


def choices(prompt: list[int], count: int, tokens: int, **options: Any) -> list[AddRequest]:
    """Return the requests of one prompt's choices, as the server sends them."""
    return [
        AddRequest(
            id=f"c{choice}",
            prompt=prompt,
            max_tokens=tokens,
            sampling=Sampling(choice=choice, seed=5),
            beside="c0" if choice else "",
            **options,
        )
        for choice in range(count)
    ]


def run(engine: Engine, asked: list[AddRequest]) -> list[list[int]]:
    for message in asked:
        assert engine.add(message) is None
    outputs = [output for batch in drain(engine) for output in batch.outputs]
    assert engine.pool.counts().used == 0
    return collect([message.id for message in asked], outputs)


def alone(asked: list[AddRequest]) -> list[list[int]]:
    """Return the tokens of each request in an engine of its own."""
    return [run(make()[0], [message])[0] for message in asked]


def test_a_prompt_is_computed_once_for_all_its_choices() -> None:
    engine, runner = make(caching=False)
    asked = choices(list(range(100, 122)), 5, 3)
    assert run(engine, asked) == alone(asked)
    # The prompt, its last token again for each other choice, and two of three outputs of each.
    assert runner.computed == 22 + 4 + 5 * 2


def test_full_blocks_of_the_prompt_are_held_once() -> None:
    engine, _ = make(caching=False)
    for message in choices(list(range(20)), 4, 50):
        engine.add(message)
    for _ in range(3):
        engine.step()
    # Five full blocks of the prompt; behind them, each choice has a block of its own, and the last
    # of the prompt was copied by those who had to write their last token into it.
    assert engine.pool.counts().used <= 4 + 4 * 2
    engine.abort([f"c{choice}" for choice in range(4)])
    assert engine.pool.counts().used == 0


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("caching", [True, False])
def test_a_shared_block_is_copied_before_it_is_written(length: int, caching: bool) -> None:
    engine, runner = make(caching=caching)
    asked = choices([9] * length, 3, 6)
    assert run(engine, asked) == alone(asked)
    assert runner.copied >= 2


def test_what_is_to_be_copied_is_held_until_it_is() -> None:
    """A tier loads beside a step, into whatever nobody holds when that is scheduled."""
    engine, runner = make(blocks=16)
    idle: list[int] = []
    compute = runner.run

    def run(slices: Any, copies: Any = ()) -> Any:
        idle.extend(engine.pool.idle([source]) for source, _ in copies)
        return compute(slices, copies)

    runner.run = run  # type: ignore[method-assign]
    first, other = choices([9] * 8, 2, 5)
    engine.add(msgspec.structs.replace(first, max_tokens=1))  # it is gone when the other writes
    engine.add(other)
    for _ in drain(engine):
        pass
    assert idle == [0]
    assert engine.pool.counts().used == 0


@settings(deadline=None, max_examples=150)
@given(
    prompt=st.integers(1, 30),
    count=st.integers(2, 6),
    tokens=st.integers(1, 12),
    blocks=st.integers(11, 40),
    seqs=st.integers(1, 8),
    budget=st.integers(1, 40),
    caching=st.booleans(),
    data=st.data(),
)
def test_choices_are_what_they_would_be_alone_whatever_happens(
    prompt: int,
    count: int,
    tokens: int,
    blocks: int,
    seqs: int,
    budget: int,
    caching: bool,
    data: st.DataObject,
) -> None:
    engine, _ = make(blocks, budget=budget, seqs=seqs, caching=caching)
    asked = choices(list(range(prompt)), count, tokens)
    for message in asked:
        engine.add(message)
    engine.add(AddRequest(id="other", prompt=[1] * 9, max_tokens=9))
    gone: set[str] = set()
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
        engine.pool.check()
        victim = f"c{data.draw(st.integers(0, 3 * count))}"
        gone.add(victim)
        engine.abort([victim])
    assert engine.pool.counts().used == 0
    for message, wanted in zip(asked, alone(asked), strict=True):
        (got,) = collect([message.id], [o for o in outputs if o.id == message.id])
        assert got == wanted if message.id not in gone else got == wanted[: len(got)]


def test_the_first_choice_may_leave_before_the_prompt_is_computed() -> None:
    engine, _ = make(budget=4)
    asked = choices(list(range(30)), 3, 4)
    for message in asked:
        engine.add(message)
    engine.step()
    engine.abort(["c0"])
    outputs = [output for batch in drain(engine) for output in batch.outputs]
    assert collect(["c1", "c2"], outputs) == alone(asked[1:])


def test_another_prompt_or_salt_shares_nothing() -> None:
    engine, runner = make(caching=False)
    first = AddRequest(id="a", prompt=[1] * 9, max_tokens=2)
    other = AddRequest(id="b", prompt=[2] * 9, max_tokens=2, beside="a")
    salted = AddRequest(id="c", prompt=[1] * 9, max_tokens=2, beside="a", salt=b"x")
    run(engine, [first, other, salted])
    assert runner.computed == 3 * 10


def test_prompt_tokens_are_scored_once_and_in_order() -> None:
    engine, _ = make(12, budget=5, seqs=2)
    asked = AddRequest(id="a", prompt=list(range(17)), max_tokens=3, prompt_logprobs=0)
    crowd = AddRequest(id="b", prompt=[3] * 20, max_tokens=20, priority=1)
    assert engine.add(asked) is None
    engine.step()
    assert engine.add(crowd) is None
    outputs = [o for batch in drain(engine) for o in batch.outputs if o.id == "a"]
    assert [score.logprob for score in outputs[0].prompt_logprobs] == [-n for n in range(1, 17)]
    assert all(not output.prompt_logprobs for output in outputs[1:])


def test_no_tokens_at_all_only_computes_the_prompt() -> None:
    engine, _ = make()
    engine.add(AddRequest(id="a", prompt=list(range(9)), max_tokens=0, prompt_logprobs=1))
    (output,) = [output for batch in drain(engine) for output in batch.outputs]
    assert output.tokens == []
    assert output.finish_reason is FinishReason.LENGTH
    assert len(output.prompt_logprobs) == 8


@pytest.mark.parametrize("family", ["llama-gqa", "deepseek-v2"])
def test_real_choices_are_what_they_would_be_alone(
    family: str, how: ExecutionConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.make(family, folder)
    asked = choices([5, 9, 2] * 7, 4, 20)
    wanted = [run(torch_engine(folder, how=how), [message])[0] for message in asked]
    assert run(torch_engine(folder, how=how), asked) == wanted
    assert len({tuple(tokens) for tokens in wanted}) > 1


def test_scores_are_the_models_own(
    how: ExecutionConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_models.make("llama-gqa", folder)
    prompt = torch.randint(0, 320, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        table = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for budget in (7, 64):
        engine = torch_engine(folder, budget=budget, how=how)
        asked = AddRequest(id="a", prompt=prompt, max_tokens=0, prompt_logprobs=3)
        for _ in "twice":  # the second time, the prefix cache must not hide the prompt
            engine.add(asked)
            (output,) = [output for batch in drain(engine) for output in batch.outputs]
            for place, score in enumerate(output.prompt_logprobs):
                token = prompt[place + 1]
                assert score.logprob == pytest.approx(float(table[place, token]), abs=1e-4)
                assert score.rank == int((table[place] > table[place, token]).sum()) + 1
                assert score.top[0][0] == int(table[place].argmax())
                assert len(score.top) == 3
