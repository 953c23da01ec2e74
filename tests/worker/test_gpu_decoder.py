"""The GPU's decoder on a CPU: Triton's interpreter, padded steps, memory that stays where it is.

All of it runs here but the recording of CUDA graphs, in whose place a step is done anew each time.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from engines import GREEDY, generate, torch_engine
from tiny_models import make

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")

from penstock_worker.attention.gpu import backend, tiles
from penstock_worker.messages import Sampling
from penstock_worker.model.gpu import graphs
from penstock_worker.model.gpu.graphs import Work
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.speculative.ngram import NgramProposer

GPU = ExecutionConfig(triton=True, max_num_seqs=8)
COUNT = 4


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts that an interpreter can read have several splits and steps all the same."""
    monkeypatch.setattr(tiles, "SPLIT", 32)
    monkeypatch.setattr(tiles, "MOST_SPLITS", 16)
    monkeypatch.setattr(backend, "STEP", 32)


@pytest.fixture(scope="module", params=["llama-gqa", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tiny")
    make(request.param, found)
    return found


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 320, (n,), generator=generator).tolist() for n in lengths]


def both(
    folder: Path, asked: list[list[int]], sampling: Sampling = GREEDY, **options: Any
) -> tuple[list[list[int]], list[list[int]], Any]:
    """Return what the reference and the GPU's decoder generate, and the latter's engine."""
    expected = generate(torch_engine(folder, **options), asked, COUNT, sampling)
    engine = torch_engine(folder, how=GPU, **options)
    return expected, generate(engine, asked, COUNT, sampling), engine


def test_mixed_lengths_in_chunks_are_what_the_reference_computes(folder: Path) -> None:
    expected, found, _ = both(folder, prompts(1, 17, 45), budget=24)
    assert found == expected


def test_a_cached_prefix_changes_nothing(folder: Path) -> None:
    shared = prompts(35)[0]
    engine = torch_engine(folder, how=GPU)
    for prompt in (shared, [*shared[:32], 1, 2]):
        expected = generate(torch_engine(folder), [prompt], COUNT)
        assert generate(engine, [prompt], COUNT) == expected
    assert engine.scheduler.prefix_hits == 32


def test_preempted_requests_resume_as_if_nothing_had_happened(folder: Path) -> None:
    expected, found, engine = both(folder, prompts(14, 15, 16), num_blocks=4, budget=24)
    assert found == expected
    assert engine.scheduler.preemptions > 0


def test_draws_are_those_of_the_reference(folder: Path) -> None:
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=7, frequency_penalty=0.5)
    expected, found, _ = both(folder, prompts(9, 20), sampling)
    assert found == expected


def test_a_step_is_launched_anew_where_no_size_has_room(folder: Path) -> None:
    asked = prompts(3, 4)
    expected = generate(torch_engine(folder), asked, COUNT)
    narrow = ExecutionConfig(triton=True, max_num_seqs=1)
    assert generate(torch_engine(folder, how=narrow), asked, COUNT) == expected


class Recorder:
    """Keeps account of sizes. As with a graph, each replay gives the same tensor."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replayed: list[int] = []

    def record(self, work: Work) -> Work:
        result = work()
        self.recorded.append(len(result))

        def replay() -> torch.Tensor:
            self.replayed.append(len(result))
            return result.copy_(work())

        return replay


def test_each_size_is_recorded_once_and_replayed_for_steps_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("llama-gqa", tmp_path)
    asked = prompts(3, 4, 5)
    expected = generate(torch_engine(tmp_path), asked, COUNT)
    recorder = Recorder()
    monkeypatch.setattr(graphs, "unrecorded", recorder.record)
    engine = torch_engine(tmp_path, how=GPU)
    assert recorder.recorded == [8, 4, 2, 1]
    assert generate(engine, asked, COUNT) == expected
    assert recorder.replayed == [4] * (COUNT - 1)


def test_guesses_are_checked_as_by_the_reference(folder: Path) -> None:
    repeating = [(prompts(5)[0] * 6)[:28]]
    expected, found, _ = both(folder, repeating, proposer=NgramProposer(4))
    assert found == expected
