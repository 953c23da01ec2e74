"""How a model is computed, decided from what was asked for and what is there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engines import generate, torch_engine
from tiny_models import make

from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.engine_options import engine_config
from penstock_worker.execution import execution_config
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.options import parser


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make("llama-gqa", folder)
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a GPU, as far as can be asked."""
    for name, answer in (
        ("is_available", True),
        ("current_device", 0),
        ("get_device_capability", (9, 0)),
        ("get_device_name", "NVIDIA Something"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def how(model: Path, **options: Any) -> ExecutionConfig:
    return execution_config(EngineConfig(model=str(model), **options), read_config(model))


def test_a_gpu_is_taken_where_there_is_one(model: Path, gpu: None) -> None:
    found = how(model, max_num_seqs=12)
    assert found.device == torch.device("cuda", 0)
    assert found.triton
    assert found.kernels is None
    assert found.max_num_seqs == 12
    assert found.dtype is torch.float32


def test_a_checkpoint_keeps_its_type_on_a_gpu(tmp_path: Path, gpu: None) -> None:
    make("llama-gqa", tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    assert how(tmp_path).dtype is torch.bfloat16
    assert how(tmp_path, dtype="float32").dtype is torch.float32


def test_a_cpu_is_taken_where_it_is_asked_for(model: Path, gpu: None) -> None:
    found = how(model, device="cpu", kernels="torch")
    assert found.device == torch.device("cpu")
    assert not found.triton


def test_without_a_gpu_it_is_a_cpu(model: Path) -> None:
    assert not torch.cuda.is_available()
    assert how(model, kernels="torch").device == torch.device("cpu")


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(model: Path) -> None:
    with pytest.raises(ValueError, match=r"device cuda: PyTorch .* finds no GPU.*nvidia\.com/gpu"):
        how(model, device="cuda")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"quantization": "int8"}, "quantization 'int8' is for CPUs"),
        ({"kernels": "native"}, "kernels 'native' compute on a CPU"),
        ({"device": "tpu"}, "device 'tpu' is not one of auto, cpu, cuda"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused_by_name(
    options: dict[str, str], complaint: str, model: Path, gpu: None
) -> None:
    with pytest.raises(ValueError, match=complaint):
        how(model, **options)


def test_experts_are_refused_on_a_gpu(tmp_path: Path, gpu: None) -> None:
    make("mixtral", tmp_path)
    with pytest.raises(ValueError, match="mixtures of experts are computed on CPUs only"):
        how(tmp_path)
    assert how(tmp_path, device="cpu", kernels="torch").device == torch.device("cpu")


def test_a_gpu_without_bfloat16_is_refused(
    model: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ValueError, match=r"Something is older than compute capability 8\.0"):
        how(model)


def test_tritons_kernels_on_a_cpu_need_its_interpreter(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        how(model, kernels="triton")


def test_an_engine_with_the_gpus_kernels_is_built_and_warmed_up(model: Path) -> None:
    pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")
    settings = EngineConfig(
        model=str(model),
        device="cpu",
        kernels="triton",
        max_model_len=32,
        max_num_seqs=2,
        max_num_batched_tokens=32,
        kv_cache_bytes=1 << 20,
    )
    engine, ready = build_engine(settings)
    assert ready.device == "cpu"
    assert engine.pool.counts().used == 0
    prompts = [[5, 6, 7], [8, 9]]
    assert generate(engine, prompts, 3) == generate(torch_engine(model), prompts, 3)


def test_the_engine_is_told_what_was_asked_for() -> None:
    asked = ["--model", "m", "--device", "cuda", "--gpu-memory-utilization", "0.5"]
    found = engine_config(parser().parse_args(asked))
    assert (found.device, found.kernels, found.gpu_memory_utilization) == ("cuda", "auto", 0.5)


@pytest.mark.parametrize("share", ["0", "1.5", "90%", "nan"])
def test_a_share_that_is_none_is_wrong_usage(
    share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--model", "m", "--gpu-memory-utilization", share])
    assert f"'{share}' is not a share above 0 and up to 1" in capsys.readouterr().err
