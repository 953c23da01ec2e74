"""The scheduler and the engine around it, with a runner that computes nothing.

Whatever arrives, is cancelled or preempted: the budget holds, nobody starves, no block leaks, and
tokens come out exactly once and in order.
"""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_runner import MemoryRunner

from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, FinishReason, Output, Sampling

BLOCK = 4


def make(
    blocks: int = 64,
    budget: int = 16,
    seqs: int = 4,
    caching: bool = True,
    clock: Callable[[], float] = lambda: 0.0,
) -> Engine:
    return Engine(
        MemoryRunner(BLOCK, budget),
        BlockPool(blocks, BLOCK, caching=caching),
        vocab_size=1000,
        max_model_len=blocks * BLOCK,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        clock=clock,
    )


def run(engine: Engine, each: Callable[[int], None] = lambda _: None) -> list[Output]:
    outputs: list[Output] = []
    steps = 0
    while engine.busy:
        outputs += engine.step().outputs
        engine.pool.check()
        steps += 1
        each(steps)
        assert steps < 10_000, "somebody starves"
    return outputs


requests = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(-1, 1), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=200)
@given(requests, st.integers(14, 40), st.integers(1, 20), st.integers(1, 5), st.booleans())
def test_every_request_gets_exactly_its_tokens(
    found: list[Any], blocks: int, budget: int, seqs: int, caching: bool
) -> None:
    engine = make(blocks, budget, seqs, caching)
    for number, (prompt, output, priority, shared) in enumerate(found):
        tokens = [7] * prompt if shared else [number] * prompt
        message = AddRequest(id=str(number), prompt=tokens, max_tokens=output, priority=priority)
        assert engine.add(message) is None
    outputs = run(engine)
    for number, (prompt, output, _, _) in enumerate(found):
        mine = [o for o in outputs if o.id == str(number)]
        assert [t for o in mine for t in o.tokens] == list(range(prompt, prompt + output))
        assert [o.finish_reason for o in mine if o.finish_reason] == [FinishReason.LENGTH]
        assert mine[-1].finish_reason is FinishReason.LENGTH
    assert engine.pool.counts().used == 0


@settings(deadline=None, max_examples=150)
@given(requests, st.integers(14, 30), st.data())
def test_cancelling_anywhere_leaks_nothing(found: list[Any], blocks: int, data: Any) -> None:
    engine = make(blocks, 8, 3)
    for number, (prompt, output, priority, _) in enumerate(found):
        engine.add(
            AddRequest(id=str(number), prompt=[1] * prompt, max_tokens=output, priority=priority)
        )
    gone: set[str] = set()

    def cancel(_: int) -> None:
        number = data.draw(st.integers(0, len(found) * 2))
        gone.add(str(number))
        engine.abort([str(number)])

    outputs = run(engine, cancel)
    assert engine.pool.counts().used == 0
    finished = {o.id for o in outputs if o.finish_reason}
    assert finished | gone >= {str(number) for number in range(len(found))}


def test_an_aborted_request_says_nothing_more() -> None:
    engine = make()
    engine.add(AddRequest(id="a", prompt=[1, 2], max_tokens=50))
    engine.step()
    engine.abort(["a", "unknown"])
    assert not engine.busy
    assert engine.pool.counts().used == 0


def test_decoding_goes_on_beside_a_long_prompt() -> None:
    engine = make(budget=8)
    engine.add(AddRequest(id="short", prompt=[1], max_tokens=20))
    engine.step()
    engine.add(AddRequest(id="long", prompt=[2] * 60, max_tokens=1))
    for _ in range(5):
        assert "short" in {o.id for o in engine.step().outputs}


def test_decoding_goes_on_even_beside_a_more_urgent_prompt() -> None:
    engine = make(budget=8)
    engine.add(AddRequest(id="short", prompt=[1], max_tokens=20))
    engine.step()
    engine.add(AddRequest(id="long", prompt=[2] * 60, max_tokens=1, priority=1))
    engine.step()
    for _ in range(5):
        assert "short" in {o.id for o in engine.step().outputs}


def test_the_more_urgent_request_is_admitted_first_and_preempted_last() -> None:
    engine = make(blocks=12, budget=64, seqs=8)
    engine.add(AddRequest(id="low", prompt=[1] * 20, max_tokens=20, priority=-1))
    engine.step()
    engine.add(AddRequest(id="high", prompt=[2] * 20, max_tokens=20, priority=5))
    order = [o.id for o in run(engine) if o.finish_reason]
    assert order == ["high", "low"]
    assert engine.scheduler.preemptions > 0


def test_stop_tokens_end_a_request_but_not_before_min_tokens() -> None:
    engine = make()
    # The counting runner draws 3, 4, 5, …
    message = AddRequest(
        id="a", prompt=[0, 0, 0], max_tokens=9, min_tokens=3, stop_token_ids=[4, 6]
    )
    engine.add(message)
    outputs = run(engine)
    assert [t for o in outputs for t in o.tokens] == [3, 4, 5, 6]
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_the_context_bounds_the_output() -> None:
    engine = make(blocks=4)
    engine.add(AddRequest(id="a", prompt=[0] * 10, max_tokens=1000))
    outputs = run(engine)
    assert len(outputs) == 6
    assert outputs[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("prompt", [[], [0] * 16, [0] * 17])
def test_what_can_never_fit_is_refused_at_once(prompt: list[int]) -> None:
    engine = make(blocks=4)
    refusal = engine.add(AddRequest(id="a", prompt=prompt, max_tokens=1))
    assert refusal is not None
    assert refusal.finish_reason is FinishReason.ABORT
    assert "1 to 15 tokens" in refusal.error
    assert not engine.busy


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"prompt": [1, 1000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"stop_token_ids": [1000]}, "stop_token_ids"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 1001}, "prompt_logprobs"),
        ({"salt": b"x" * 65}, "salt"),
        ({"sampling": Sampling(logit_bias={1000: 1.0})}, "logit_bias"),
        ({"sampling": Sampling(logit_bias={1: inf})}, "biases"),
        ({"sampling": Sampling(temperature=nan)}, "temperature"),
        ({"sampling": Sampling(top_k=1 << 63)}, "top_k"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p"),
        ({"sampling": Sampling(min_p=2.0)}, "min_p"),
        ({"sampling": Sampling(repetition_penalty=0.0)}, "repetition_penalty"),
        ({"sampling": Sampling(seed=1 << 63)}, "seed"),
        ({"sampling": Sampling(choice=-1)}, "choice"),
        ({"sampling": Sampling(logprobs=1001)}, "logprobs"),
    ],
)
def test_what_would_break_a_shared_step_is_refused(options: dict[str, Any], field: str) -> None:
    engine = make()
    refusal = engine.add(AddRequest(**{"id": "a", "prompt": [1], "max_tokens": 1, **options}))
    assert refusal is not None
    assert field in refusal.error
    assert not engine.busy


def test_queueing_is_counted_until_first_scheduled_and_told_once() -> None:
    now = iter(range(100))
    engine = make(seqs=1, budget=2, clock=lambda: float(next(now)))
    engine.add(AddRequest(id="a", prompt=[1] * 6, max_tokens=2))  # at 0; scheduled at 1
    outputs = run(engine)
    assert [o.queue_seconds for o in outputs] == [1.0, 0.0]


def test_when_a_step_fails_every_request_is_told() -> None:
    engine = make(seqs=1)
    for name in ("running", "waiting"):
        engine.add(AddRequest(id=name, prompt=[1], max_tokens=5))
    engine.step()
    batch = engine.give_up("the disk is on fire")
    assert [(o.id, o.finish_reason, o.error) for o in batch.outputs] == [
        ("running", FinishReason.ABORT, "the disk is on fire"),
        ("waiting", FinishReason.ABORT, "the disk is on fire"),
    ]
    assert batch.stats.blocks_used == 0
    assert not engine.busy


def test_an_id_cannot_be_used_twice_at_once() -> None:
    engine = make()
    message = AddRequest(id="a", prompt=[0], max_tokens=5)
    engine.add(message)
    refusal = engine.add(message)
    assert refusal is not None
    assert "already in use" in refusal.error


def test_a_shared_prefix_is_computed_once() -> None:
    engine = make(budget=100)
    engine.add(AddRequest(id="a", prompt=[1] * 21, max_tokens=1))
    run(engine)
    engine.add(AddRequest(id="b", prompt=[1] * 21, max_tokens=1))
    engine.add(AddRequest(id="c", prompt=[1] * 21, max_tokens=1, salt=b"tenant"))
    outputs = {o.id: o for o in run(engine)}
    assert outputs["b"].cached_tokens == 20
    assert outputs["c"].cached_tokens == 0
    assert engine.scheduler.prefix_hits == 20
    assert engine.scheduler.prefix_queries == 63


def test_a_deadline_ends_a_request_whether_it_waits_or_runs() -> None:
    now = 0.0
    engine = make(seqs=1, clock=lambda: now)
    for name, seconds in (("runs", 5.0), ("waits", 3.0), ("lasts", None)):
        engine.add(AddRequest(id=name, prompt=[1, 2, 3], max_tokens=50, deadline=seconds))
    assert [output.id for output in engine.step().outputs] == ["runs"]
    now = 3.0
    first = engine.step().outputs[0]
    assert (first.id, first.tokens, first.finish_reason) == ("waits", [], FinishReason.DEADLINE)
    now = 5.0
    ended = {output.id: output.finish_reason for output in engine.step().outputs}
    assert ended == {"runs": FinishReason.DEADLINE, "lasts": None}
    engine.pool.check()
    assert len([o for o in run(engine) if o.id == "lasts"]) == 49
