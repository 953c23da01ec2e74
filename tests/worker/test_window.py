"""Sequences of a model that slides hold a window of KV and no more, and lose nothing by it."""

from collections.abc import Sequence
from pathlib import Path
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
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.request import Request
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.window import ALIGNMENT, GONE, Window

BLOCK = 16
WINDOW = 40

windows = st.builds(Window, st.integers(2, 300), st.sampled_from([1, 4, 16, 64, 128]))


@given(windows, st.integers(0, 2000))
def test_what_is_let_go_is_never_read_again(window: Window, computed: int) -> None:
    first_seen = max(0, computed + 1 - window.tokens)
    first_read = first_seen - first_seen % ALIGNMENT
    assert window.behind(computed) * window.block_size <= first_read
    assert (window.behind(computed) + 1) * window.block_size > first_read  # and not more is kept


@given(windows, st.integers(1, 2000), st.integers(1, 200))
def test_a_sequence_holds_what_is_said_at_most(window: Window, length: int, step: int) -> None:
    most = window.most_blocks(length, step)
    for computed in range(0, length, step):
        end = -(-min(length, computed + step) // window.block_size)
        assert end - window.behind(computed) <= most
    assert most <= -(-length // window.block_size)


@given(windows, st.lists(st.booleans(), max_size=60))
def test_the_longest_prefix_needs_what_is_in_sight(window: Window, known: list[bool]) -> None:
    found = [100 + index if there else None for index, there in enumerate(known)]

    def continuable(count: int) -> bool:
        return None not in found[window.behind(count * window.block_size) : count]

    best = max(count for count in range(len(found) + 1) if continuable(count))
    behind = window.behind(best * window.block_size)
    assert window.longest(found) == [GONE] * behind + found[behind:best]


def test_where_a_layer_sees_everything_nothing_is_let_go() -> None:
    assert Window(0, BLOCK).behind(100_000) == 0
    assert Window(0, BLOCK).most_blocks(1000, 10) == 63


def spread(tokens: Sequence[int], request: Request) -> int:
    """Draw what depends on the choice and on everything that is seen."""
    return (sum(tokens[-WINDOW:]) * 7 + len(tokens) + request.sampling.choice * 31) % 50


def make(
    blocks: int = 64,
    *,
    budget: int = 64,
    seqs: int = 8,
    caching: bool = True,
    window: int = WINDOW,
    guesses: int = 0,
) -> Engine:
    return Engine(
        MemoryRunner(BLOCK, budget, spread, window),
        BlockPool(blocks, BLOCK, caching=caching),
        vocab_size=1000,
        max_model_len=2000,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        proposer=NgramProposer(guesses) if guesses else None,
        window=window,
    )


def alone(asked: list[AddRequest]) -> list[list[int]]:
    """Return the tokens of each request in an engine of its own that keeps everything."""
    found = []
    for message in asked:
        engine = make(200, window=0)
        engine.add(message)
        found += collect([message.id], [o for batch in drain(engine) for o in batch.outputs])
    return found


def test_what_a_long_sequence_holds_is_bounded_by_the_window() -> None:
    engine = make(blocks=20, budget=64)
    engine.add(AddRequest(id="a", prompt=[1] * 900, max_tokens=600))
    most, said = 0, Window(WINDOW, BLOCK).most_blocks(1500, 64)
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
        most = max(most, engine.pool.counts().used)
    assert len(outputs) == 600
    assert most <= said <= 12  # of the 94 that its tokens fill
    assert engine.scheduler.preemptions == 0


def test_admission_asks_for_a_window_and_no_more() -> None:
    needed = Window(WINDOW, BLOCK).most_blocks(1500, 64)
    message = AddRequest(id="a", prompt=[1] * 900, max_tokens=600)
    assert make(needed, budget=64).add(message) is None
    refusal = make(needed - 1, budget=64).add(message)
    assert refusal is not None
    assert "can never fit" in refusal.error


def test_a_prefix_whose_head_was_evicted_is_still_found() -> None:
    engine = make(blocks=16, budget=64)
    prompt = [n % 50 for n in range(600)]
    for name in "ab":
        engine.add(AddRequest(id=name, prompt=prompt, max_tokens=2))
        outputs = [output for batch in drain(engine) for output in batch.outputs]
        engine.pool.check()
    assert outputs[0].cached_tokens == 592  # though the pool holds 256 tokens
    assert collect(["b"], outputs) == alone([AddRequest(id="b", prompt=prompt, max_tokens=2)])


def test_a_choice_beside_one_that_is_resumed_keeps_what_it_sees() -> None:
    """The first is far beyond the prompt when it is admitted, and has let go of its end."""
    prompt = [1] * 40
    first = AddRequest(id="c0", prompt=prompt, max_tokens=400, sampling=Sampling(seed=5))
    other = AddRequest(
        id="c1", prompt=prompt, max_tokens=9, sampling=Sampling(seed=5, choice=1), beside="c0"
    )
    engine = make()
    engine.add(first)
    (tokens,) = collect(["c0"], [o for batch in drain(engine) for o in batch.outputs])
    engine.add(msgspec.structs.replace(first, output=tokens[:390]))
    engine.add(other)
    outputs = [output for batch in drain(engine) for output in batch.outputs]
    assert collect(["c0", "c1"], outputs) == [tokens[390:], *alone([other])]


def test_a_prompt_that_another_worker_gets_is_kept_whole() -> None:
    engine = make(blocks=70)
    engine.add(AddRequest(id="a", prompt=[1] * 900, max_tokens=2, keep=True))
    while engine.busy and engine.scheduler.preemptions == 0:
        used = engine.pool.counts().used
        engine.step()
    assert used == 57
    refusal = make(blocks=40).add(AddRequest(id="a", prompt=[1] * 900, max_tokens=2, keep=True))
    assert refusal is not None


@settings(deadline=None, max_examples=60)
@given(
    found=st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 200), st.integers(-1, 1), st.integers(1, 3)),
        min_size=1,
        max_size=5,
    ),
    blocks=st.integers(16, 60),
    seqs=st.integers(1, 6),
    budget=st.integers(1, 80),
    caching=st.booleans(),
    guesses=st.integers(0, 4),
    data=st.data(),
)
def test_every_request_gets_the_tokens_it_would_get_alone(
    found: list[Any],
    blocks: int,
    seqs: int,
    budget: int,
    caching: bool,
    guesses: int,
    data: st.DataObject,
) -> None:
    """Admitted, preempted, forked, guessed, cancelled: the runner sees that nothing is missing."""
    engine = make(blocks, budget=budget, seqs=seqs, caching=caching, guesses=guesses)
    asked = [
        AddRequest(
            id=f"{number}.{choice}",
            prompt=[token % 7 for token in range(prompt)],
            max_tokens=output,
            priority=priority,
            sampling=Sampling(choice=choice, seed=5),
            beside=f"{number}.0" if choice else "",
        )
        for number, (prompt, output, priority, count) in enumerate(found)
        for choice in range(count)
    ]
    for message in asked:
        assert engine.add(message) is None
    gone: set[str] = set()
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
        engine.pool.check()
        if data.draw(st.integers(0, 60)) == 0:
            gone.add(data.draw(st.sampled_from(asked)).id)
            engine.abort(list(gone))
    assert engine.pool.counts().used == 0
    for message, wanted in zip(asked, alone(asked), strict=True):
        (got,) = collect([message.id], [o for o in outputs if o.id == message.id])
        assert got == wanted if message.id not in gone else got == wanted[: len(got)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, tiny_models.make("mistral-window", folder)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in lengths]


def greedy(engine: Engine, asked: list[list[int]], count: int) -> list[list[int]]:
    ids = [str(number) for number in range(len(asked))]
    for name, prompt in zip(ids, asked, strict=True):
        message = AddRequest(name, prompt, max_tokens=count, sampling=Sampling(temperature=0.0))
        assert engine.add(message) is None
    outputs = []
    while engine.busy:
        outputs += engine.step().outputs
        engine.pool.check()
    assert engine.pool.counts().used == 0
    return collect(ids, outputs)


def expected(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return list(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("guesses", [0, 3])
@pytest.mark.parametrize("budget", [33, 4096])
def test_long_texts_in_a_small_pool_are_what_transformers_writes(
    tiny: tuple[Path, Any], how: ExecutionConfig, budget: int, guesses: int
) -> None:
    folder, model = tiny
    proposer = NgramProposer(guesses) if guesses else None
    blocks = 26 if budget == 4096 else 14  # a prompt that is computed at once is held at once
    engine = torch_engine(folder, num_blocks=blocks, budget=budget, how=how, proposer=proposer)
    asked = prompts(310, 130, 65)
    wanted = [expected(model, prompt, 90) for prompt in asked]
    assert greedy(engine, asked, 90) == wanted
    assert greedy(engine, asked, 90) == wanted  # with what the cache has left of them


def test_preempted_texts_go_on_as_if_nothing_had_happened(
    tiny: tuple[Path, Any], how: ExecutionConfig
) -> None:
    folder, model = tiny
    engine = torch_engine(folder, num_blocks=22, budget=64, how=how)
    asked = prompts(70, 71, 72, 73)
    assert greedy(engine, asked, 150) == [expected(model, prompt, 150) for prompt in asked]
    assert engine.scheduler.preemptions > 0


def test_a_text_that_another_worker_began_goes_on(
    tiny: tuple[Path, Any], how: ExecutionConfig
) -> None:
    folder, model = tiny
    (prompt,) = prompts(130)
    whole = expected(model, prompt, 150)
    engine = torch_engine(folder, num_blocks=14, budget=64, how=how)
    for cut in (1, 64, 149):
        engine.add(
            AddRequest(
                "a", prompt, output=whole[:cut], max_tokens=150, sampling=Sampling(temperature=0.0)
            )
        )
        assert collect(["a"], [o for batch in drain(engine) for o in batch.outputs]) == [
            whole[cut:]
        ]


@pytest.mark.parametrize(
    ("family", "window"), [("mistral-window", True), ("mistral", False), ("gemma3", False)]
)
def test_only_models_whose_every_layer_slides_let_go(
    family: str, window: bool, tmp_path: Path
) -> None:
    tiny_models.make(family, tmp_path)
    assert bool(read_config(tmp_path).window) == window
