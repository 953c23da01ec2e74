"""Where the tensors of a GPU's step lie, on a device that is only pretended.

Nothing is computed: PyTorch follows shapes and devices, and complains where two meet that are not
on the same one. What is launched in place of Triton's kernels checks that all it gets is there.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")

from penstock_worker.attention.gpu import kernels
from penstock_worker.attention.gpu.backend import TritonAttention
from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.messages import Sampling
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.gpu.decoder import GpuDecoder
from penstock_worker.model.interface import Batch
from penstock_worker.model.weights import Weights
from penstock_worker.penalties import TokenHistory
from penstock_worker.sampling import Row, choose

_setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended", 0)


class Launches:
    """Stands for a kernel: takes a grid, then arguments, which have to be on the device."""

    def __init__(self) -> None:
        self.count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        assert all(size > 0 for size in grid)
        return self._launch

    def _launch(self, *arguments: object, **_: object) -> None:
        self.count += 1
        for argument in arguments:
            assert not isinstance(argument, torch.Tensor) or argument.device == DEVICE


class EmptyCheckpoint:
    """Has every tensor that it is asked for."""

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)

    def __contains__(self, name: str) -> bool:
        return True

    def refuse_leftovers(self, *known: str) -> None: ...


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    found = Launches()
    for name in ("store", "attend", "combine"):
        monkeypatch.setattr(kernels, name, found)
    return found


@pytest.fixture(autouse=True)
def _pretending() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        yield


@pytest.fixture(params=["llama-bias", "gemma3"])
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> ModelConfig:
    with torch._subclasses.fake_tensor.unset_fake_temporarily(), torch.inference_mode(mode=False):
        make(request.param, tmp_path)
    return read_config(tmp_path)


def decoder(shape: ModelConfig) -> GpuDecoder:
    pool = KVPool(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        num_blocks=8,
        block_size=16,
        dtype=torch.bfloat16,
        device=DEVICE,
    )
    attention = TritonAttention(
        pool, shape.windows, shape.query_scale, heads=shape.num_heads, max_model_len=128
    )
    weights = Weights(shape, EmptyCheckpoint())  # type: ignore[arg-type]
    return GpuDecoder(
        TorchDecoder(shape, weights, attention, 128), attention, max_model_len=128, sizes=(1, 2)
    )


def batch(*lengths: tuple[int, int]) -> Batch:
    sequences, tokens = [], 0
    for computed, count in lengths:
        sequences.append(Sequence(tokens, count, computed, list(range(8))))
        tokens += count
    positions = [range(computed, computed + count) for computed, count in lengths]
    rows = [sequence.first_row + sequence.count - 1 for sequence in sequences]
    return Batch([1] * tokens, list(itertools.chain(*positions)), sequences, rows)


@pytest.mark.parametrize(
    "step", [batch((9, 1)), batch((40, 1), (2, 1), (7, 1)), batch((0, 20), (9, 1))], ids=range(3)
)
def test_all_that_a_step_touches_is_on_the_device(
    step: Batch, shape: ModelConfig, launches: Launches
) -> None:
    logits = decoder(shape).logits(step)
    assert logits.device == DEVICE
    assert logits.shape == (len(step.sequences), shape.vocab_size)
    assert launches.count >= 2 * shape.num_layers


def test_a_step_of_decoding_without_all_of_its_outputs(
    shape: ModelConfig, launches: Launches
) -> None:
    step = batch((9, 1), (3, 1))
    step.output_rows.pop(0)
    assert decoder(shape).logits(step).shape == (1, shape.vocab_size)


PENALTIES = Sampling(
    temperature=0.5,
    repetition_penalty=1.2,
    presence_penalty=0.1,
    frequency_penalty=0.1,
    logit_bias={3: 1.0},
)
FILTERED = Sampling(temperature=0.5, top_k=4, top_p=0.9, min_p=0.1)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), PENALTIES, FILTERED], ids=range(3))
def test_tokens_are_drawn_on_the_device(sampling: Sampling) -> None:
    # Two of everything: single numbers are followed by value, and there is no such device.
    rows = [
        Row(wanted, 2, forbidden, allowed, TokenHistory(2).follow([1, 2, 3, 4]))
        for wanted, forbidden, allowed in (
            (Sampling(temperature=1.0), (), b""),
            (Sampling(temperature=2.0), (), b""),
            (sampling, (), bytes(40)),
            (sampling, (7, 8), b""),
        )
    ]
    chosen = choose(torch.empty(4, 320, device=DEVICE), rows)
    assert chosen.device == DEVICE
    assert chosen.shape == (4,)


def test_blocks_are_copied_on_the_device(shape: ModelConfig) -> None:
    made = decoder(shape)
    made._attention.pool.copy(1, 2)
    assert {kept.device for kept in made._attention.pool.keys} == {DEVICE}
