"""Measures at warm-up what a step costs, so that router and autoscaler need not guess at first.

Steps of growing size, as many as fit into the time given; a big model on a slow machine measures
few, and the fit then says what it can. What the worker serves later tells more, and is exported.
"""

from collections.abc import Callable

from penstock_contract.step_cost import StepCost, StepMoments, fit
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, Sampling

SHAPES = ((16, 1), (64, 2), (32, 8), (256, 1), (128, 4), (64, 16), (512, 2))
"""(prompt tokens, requests): each gives a step of prompts and some of decoding behind them."""

STRIDE = 7919
"""From token to token of a prompt; a prime, so that few repeat."""

DECODES = 3
GROWTH = 4.0
"""A shape is tried when the time left is so many times what the one before took."""


def measure(
    engine: Engine, *, vocab_size: int, clock: Callable[[], float], budget: float
) -> StepCost:
    """Return the cost of steps, measured within `budget` seconds and at most a step more.

    Args:
        engine: idle, and of no other use afterwards: its cache holds what was measured with.
        vocab_size: token ids run up to it.
        clock: monotonic seconds.
        budget: seconds.
    """
    moments = StepMoments()
    deadline = clock() + budget
    for number, (prompt, requests) in enumerate(SHAPES):
        began = clock()
        _add(engine, number, prompt, requests, vocab_size)
        while engine.busy and clock() < deadline:
            stats = engine.step().stats
            moments.add(
                stats.step_seconds, stats.prefill_tokens, stats.decode_tokens, stats.kv_tokens
            )
        if clock() + GROWTH * (clock() - began) > deadline:
            break
    return fit(moments.sums)


def _add(engine: Engine, number: int, prompt: int, requests: int, vocab_size: int) -> None:
    for request in range(requests):
        # No prompt begins like another one, or the cache would save its computation. Tokens differ,
        # as equal ones would all choose the same experts, whose weights a step reads once.
        first, others = number * 37 + request, range(request, request + STRIDE * prompt, STRIDE)
        tokens = [token % vocab_size for token in (first, *others[1:])]
        name, greedy = f"measure-{number}-{request}", Sampling(temperature=0.0)
        # What does not fit into a small context or cache is refused, and not measured.
        engine.add(AddRequest(name, tokens, max_tokens=1 + DECODES, sampling=greedy))
