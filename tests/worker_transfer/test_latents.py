"""Latents are handed over like keys and values, and are a fraction of the bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from handoffs import Node, node, source
from kernels import native_library

from penstock_contract.handoff import PullOutcome
from penstock_worker.attention.pool import KVPool
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.transfer.pool_memory import DevicePoolMemory, PoolMemory

PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(203)]
FULL = 12  # blocks of 16 tokens, all but the last ones of the prompt
BLOCK_BYTES = 3 * 16 * (24 + 8) * 4  # layers, tokens, latent and rotary key, float32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.make("deepseek-v3-experts", folder)
    return folder


@pytest.fixture(params=["torch", "native"])
def pair(model: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Node, Node]]:
    """A prefill engine and a decode engine."""
    if request.param == "native" and native_library() is None:
        pytest.skip("no C++ compiler")
    with (
        node(model, kernels=request.param) as prefill,
        node(model, kernels=request.param) as decode,
    ):
        yield prefill, decode


def asked(name: str, **options: Any) -> AddRequest:
    return AddRequest(
        name, PROMPT, **{"max_tokens": 24, "sampling": Sampling(temperature=0.0), **options}
    )


def test_tokens_are_those_of_one_engine(pair: tuple[Node, Node]) -> None:
    prefill, decode = pair
    prefill.add(asked("alone"))
    expected = prefill.finish("alone")
    prefill.add(asked("prefill", max_tokens=1, keep=True))
    prefill.finish("prefill")
    kept = prefill.outputs["prefill"][-1].kept
    assert kept is not None
    decode.add(asked("r", source=source(kept)))
    assert decode.finish("r") == expected
    assert decode.stats.pulls == {PullOutcome.COMPLETE: 1}
    assert decode.stats.pulled_bytes == FULL * BLOCK_BYTES
    assert decode.steps[0].prefill_tokens == len(PROMPT) - FULL * 16


@pytest.mark.parametrize("kind", [PoolMemory, DevicePoolMemory])
def test_a_block_is_the_bytes_of_its_latents(
    model: Path, kind: type[PoolMemory] | type[DevicePoolMemory]
) -> None:
    pools = [KVPool.of(read_config(model), 5, 16, ExecutionConfig().dtype) for _ in range(2)]
    for keys in pools[0].keys:
        keys.copy_(torch.randn(keys.shape))
    data = bytearray(b"".join(kind(pools[0]).read(3)))
    assert len(data) == kind(pools[0]).block_bytes == BLOCK_BYTES
    kind(pools[1]).write(1, data)
    for ours, theirs in zip(pools[0].keys, pools[1].keys, strict=True):
        assert torch.equal(theirs[16:32], ours[48:64])
        assert not theirs[32:].any()
        assert not theirs[:16].any()
