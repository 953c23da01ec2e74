"""An engine of two ranks, real processes over gloo, answers as one rank does with PyTorch.

Whatever the scheduler does: prompts in chunks, prefixes from the cache, requests that give way,
choices of one prompt, guesses, grammars.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import collect, drain, generate, torch_engine
from llguidance import LLMatcher

from penstock_worker.engine import Engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.runner import ModelRunner
from penstock_worker.speculative.ngram import NgramProposer
from penstock_worker.tensor_parallel.leading import lead
from penstock_worker.text.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
BLOCKS = 40
LONGEST = 256
BLOCK_BYTES = 16 * read_config(EXAMPLE).kv_bytes_per_token


def config(ranks: int = 2, **settings: Any) -> EngineConfig:
    """Return settings of an engine whose KV and steps are small enough to make it juggle."""
    return EngineConfig(
        model=str(EXAMPLE),
        device="cpu",
        kernels="torch",
        max_model_len=LONGEST,
        max_num_batched_tokens=48,
        kv_cache_bytes=BLOCKS * BLOCK_BYTES // ranks,
        speculative="ngram",
        threads=2,
        tensor_parallel_size=ranks,
        **settings,
    )


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Engine, Engine]]:
    """The same engine on one rank and on two."""
    found, shape = config(), read_config(EXAMPLE)
    model, _, num_blocks = lead(found, shape, execution_config(found, shape), LONGEST)
    assert num_blocks == BLOCKS  # half of each block on each rank
    alone, together = (
        torch_engine(
            EXAMPLE,
            num_blocks=BLOCKS,
            budget=found.max_num_batched_tokens,
            proposer=NgramProposer(4),
            runner=runner,
        )
        for runner in (None, ModelRunner(model, model))
    )
    yield alone, together
    model.close()


def prompts(*texts: str) -> list[list[int]]:
    tokenizer = Tokenizer(EXAMPLE)
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


TEXTS = prompts(
    "def add(a, b):\n    return a + b\n\n\n" * 8,
    "def add(a, b):\n    return a + b\n\n\n" * 8 + "def sub(a, b):\n",
    "Return the path",
    "import os\nimport sys\n",
    "class Tree:\n    def __init__(self):\n",
    "x",
)


def test_many_prompts_get_the_same_tokens(both: tuple[Engine, Engine]) -> None:
    found = [generate(engine, TEXTS * 2, 100) for engine in both]
    assert found[1] == found[0]
    for engine in both:
        stats = engine.stats()
        assert stats.preemptions > 0
        assert stats.prefix_hits > 0
        assert stats.blocks_used == 0


def test_draws_and_choices_are_the_same(both: tuple[Engine, Engine]) -> None:
    asked = [
        AddRequest(
            id=f"c{choice}",
            prompt=TEXTS[1],
            max_tokens=24,
            sampling=Sampling(temperature=0.8, top_p=0.9, seed=5, choice=choice),
            beside="c0" if choice else "",
        )
        for choice in range(4)
    ]
    names = [message.id for message in asked]
    found = []
    for engine in both:
        for message in asked:
            assert engine.add(message) is None
        found.append(collect(names, [o for batch in drain(engine) for o in batch.outputs]))
    assert found[1] == found[0]
    assert len({*map(tuple, found[0])}) > 1


def test_guesses_and_grammars_are_the_same(both: tuple[Engine, Engine]) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    }
    grammar = LLMatcher.grammar_from_json_schema(schema)
    found = [generate(engine, TEXTS[:2], 32, grammar=grammar) for engine in both]
    assert found[1] == found[0]
    text = Tokenizer(EXAMPLE).decode(found[1][0])
    assert text.startswith("{")


def test_log_probabilities_are_close(both: tuple[Engine, Engine]) -> None:
    found = []
    for engine in both:
        message = AddRequest(
            id="a",
            prompt=TEXTS[2],
            max_tokens=6,
            sampling=Sampling(temperature=0.0, logprobs=2),
            prompt_logprobs=1,
        )
        assert engine.add(message) is None
        outputs = [o for batch in drain(engine) for o in batch.outputs]
        found.append([p.logprob for o in outputs for p in [*o.prompt_logprobs, *o.logprobs]])
    assert found[1] == pytest.approx(found[0], abs=1e-4)
