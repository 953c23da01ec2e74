"""Two ranks keep KV in bytes as one does: a module of its own, as a process leads one group."""

from pathlib import Path

import pytest
from engines import drain, torch_engine

from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.runner import ModelRunner
from penstock_worker.tensor_parallel.leading import lead
from penstock_worker.text.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
BLOCKS = 40
LONGEST = 256
CONFIG = EngineConfig(
    model=str(EXAMPLE),
    device="cpu",
    kernels="torch",
    max_model_len=LONGEST,
    max_num_batched_tokens=48,
    kv_cache_bytes=BLOCKS * 16 * read_config(EXAMPLE).kv_bytes_per_token // 2,
    kv_cache_dtype="int8_per_token_head",
    threads=2,
    tensor_parallel_size=2,
)
TEXTS = [
    Tokenizer(EXAMPLE).encode(text, add_special_tokens=False)
    for text in ("def add(a, b):\n    return a + b\n\n\n" * 8, "import os\nimport sys\n", "x")
]


def test_ranks_keep_kv_in_bytes_as_one_does() -> None:
    found, shape = CONFIG, read_config(EXAMPLE)
    how = execution_config(found, shape)
    model, _, num_blocks = lead(found, shape, how, LONGEST)
    asked = Sampling(temperature=0.0, logprobs=0)
    try:
        assert num_blocks > 3 * BLOCKS  # of float32
        alone, together = (
            torch_engine(EXAMPLE, num_blocks=num_blocks, budget=48, how=how, runner=runner)
            for runner in (None, ModelRunner(model, model))
        )
        answers = []
        for engine in (alone, together):
            for number, text in enumerate(TEXTS):
                message = AddRequest(
                    str(number), text, max_tokens=12, sampling=asked, prompt_logprobs=0
                )
                assert engine.add(message) is None
            outputs = [o for batch in drain(engine) for o in batch.outputs]
            answers.append(
                {
                    (output.id, place): logprob.logprob
                    for output in outputs
                    for place, logprob in enumerate([*output.prompt_logprobs, *output.logprobs])
                }
            )
        assert answers[1] == pytest.approx(answers[0], abs=0.05)
    finally:
        model.close()
