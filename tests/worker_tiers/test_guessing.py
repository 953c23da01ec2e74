"""A draft guesses beside KV in bytes that gives way, is kept on a disk, and read back from it."""

from pathlib import Path
from typing import Any

from handoffs import Node, config

from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import TierConfig
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.speculative.paced import PacedProposer

MODEL = Path(__file__).parents[2] / "examples" / "model"
DRAFT = {"speculative": "draft", "speculative_model": str(MODEL / "draft")}
PROMPTS = [[(31 * place + 17 * n) % 3000 + 300 for place in range(90 - 9 * n)] for n in range(4)]


def built(**options: Any) -> Engine:
    """Return an engine that keeps KV in bytes; if it has a draft, it guesses in every step."""
    settings = {"kernels": "auto", "transfer": None, "kv_cache_dtype": "int8_per_token_head"}
    engine, _ = build_engine(config(MODEL, **{**settings, **options}))
    if isinstance(engine._proposer, PacedProposer):
        engine._proposer = engine._proposer._proposer
    return engine


def answers(found: Node, turn: int) -> list[list[int]]:
    names = [f"{turn}-{number}" for number in range(len(PROMPTS))]
    for name, prompt in zip(names, PROMPTS, strict=True):
        found.add(AddRequest(name, prompt, 40, Sampling(temperature=0.0)))
    return [found.finish(name) for name in names]


def test_answers_are_those_of_an_engine_with_nothing_of_it(tmp_path: Path) -> None:
    expected = answers(Node(built()), 0)
    small = {"kv_cache_bytes": 330 << 10, "max_model_len": 144, "max_num_batched_tokens": 64}
    engine = built(tier=TierConfig(str(tmp_path), 64 << 20), **DRAFT, **small)
    found = Node(engine)
    engine.start(found.woken.set)
    try:
        for turn in range(3):
            assert answers(found, turn) == expected
        told = engine.stats().tier
        assert told is not None
        assert told.hits > 0
        assert engine.scheduler.preemptions > 0
        drafted = [step.drafted for step in found.steps if step.drafted]
        assert sum(sum(one.accepted) for one in drafted) > 0
    finally:
        engine.close()
