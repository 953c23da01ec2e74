"""The GPU's decoder divided among ranks, as far as that goes without GPUs.

Triton's kernels run in their interpreter, and gloo stands in for NCCL; graphs are not recorded.
"""

from pathlib import Path

import pytest
import tiny_models
from child_engine import Process
from engines import GREEDY, collect, generate, torch_engine

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")

from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Ready

PROMPTS = [[7, 300, 12], [*range(5, 50, 3)]]
COUNT = 4


def test_ranks_with_the_gpus_decoder_generate_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.make("llama-gqa", tmp_path)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    process = Process(
        EngineConfig(
            model=str(tmp_path),
            device="cpu",
            kernels="triton",
            max_model_len=32,
            max_num_seqs=2,
            max_num_batched_tokens=16,
            threads=2,
            tensor_parallel_size=2,
        )
    )
    assert isinstance(process.event(), Ready)
    names = ["a", "b"]
    for name, prompt in zip(names, PROMPTS, strict=True):
        process.send(AddRequest(id=name, prompt=prompt, max_tokens=COUNT, sampling=GREEDY))
    outputs = process.until_idle(len(names))
    assert process.close() == 0
    expected = generate(torch_engine(tmp_path), PROMPTS, COUNT)
    assert collect(names, outputs) == expected
