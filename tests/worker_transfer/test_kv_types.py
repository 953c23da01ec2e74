"""KV in bytes is handed over and kept on disks like any other, and taken for no other."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from handoffs import Node, config, node, source
from kernels import native_library
from tiered import files

from penstock_contract.handoff import PullOutcome
from penstock_worker.attention.pool import KVPool
from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import TierConfig
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.transfer.pool_memory import PoolMemory

PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(203)]
FULL = 12  # blocks of 16 tokens, all but the last ones of the prompt
INT8 = {"kv_cache_dtype": "int8_per_token_head"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.make("llama-gqa", folder)
    return folder


def asked(name: str, **options: Any) -> AddRequest:
    return AddRequest(
        name, PROMPT, **{"max_tokens": 24, "sampling": Sampling(temperature=0.0), **options}
    )


@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_tokens_are_those_of_one_engine(model: Path, kernels: str) -> None:
    if kernels == "native" and native_library() is None:
        pytest.skip("no C++ compiler")
    how = {**INT8, "kernels": kernels}
    with node(model, **how) as prefill, node(model, **how) as decode:
        prefill.add(asked("alone"))
        expected = prefill.finish("alone")
        prefill.add(asked("prefill", max_tokens=1, keep=True))
        prefill.finish("prefill")
        kept = prefill.outputs["prefill"][-1].kept
        assert kept is not None
        decode.add(asked("r", source=source(kept)))
        assert decode.finish("r") == expected
        assert decode.stats.pulls == {PullOutcome.COMPLETE: 1}
        assert decode.steps[0].prefill_tokens == len(PROMPT) - FULL * 16


@pytest.mark.parametrize("theirs", [{}, {"kv_cache_dtype": "bfloat16"}], ids=str)
def test_kv_of_another_type_is_computed_and_not_taken(model: Path, theirs: dict[str, str]) -> None:
    with node(model, **theirs) as prefill, node(model, **INT8) as decode:
        prefill.add(asked("prefill", max_tokens=1, keep=True))
        prefill.finish("prefill")
        kept = prefill.outputs["prefill"][-1].kept
        assert kept is not None
        decode.add(asked("r", source=source(kept)))
        found = decode.finish("r")
        assert decode.stats.pulls == {PullOutcome.INCOMPATIBLE: 1}
        assert decode.steps[0].prefill_tokens == len(PROMPT)
        decode.add(asked("alone"))
        assert decode.finish("alone") == found


def test_a_tier_is_read_by_engines_that_keep_kv_as_it_was_kept(model: Path, tmp_path: Path) -> None:
    tier = TierConfig(str(tmp_path), 64 << 20)
    first, _ = answered(model, tier)
    assert len(list(files(tmp_path))) >= FULL  # closing had kept it
    assert answered(model, tier) == (first, FULL * 16)
    assert answered(model, tier, kv_cache_dtype="bfloat16")[1] == 0


def answered(model: Path, tier: TierConfig, **changes: Any) -> tuple[list[int], int]:
    """Return a new engine's answer, and how many tokens of the prompt were cached."""
    asks = any(files(Path(tier.folder)))
    engine, _ = build_engine(config(model, transfer=None, tier=tier, **{**INT8, **changes}))
    found = Node(engine)
    engine.start(found.woken.set)
    try:
        found.until(lambda: not asks or on_disk(engine) > 0)
        found.add(asked("r"))
        return found.finish("r"), found.outputs["r"][0].cached_tokens
    finally:
        engine.close()


def on_disk(engine: Engine) -> int:
    """Return the bytes that the engine's tier has found."""
    told = engine.stats().tier
    assert told is not None
    return told.used_bytes


def test_a_block_is_the_bytes_of_its_vectors_and_of_their_scales() -> None:
    pools = [
        KVPool(
            num_layers=2,
            num_kv_heads=3,
            head_dim=8,
            num_blocks=5,
            block_size=4,
            dtype=torch.int8,
        )
        for _ in range(2)
    ]
    slots = torch.arange(20)
    for layer in range(2):
        pools[0].put(layer, slots, *torch.randn(2, 20, 3, 8))
    first, second = (PoolMemory(pool) for pool in pools)
    data = bytearray(b"".join(first.read(3)))
    assert len(data) == first.block_bytes == 2 * 2 * 4 * 3 * (8 + 4)
    second.write(1, data)
    for layer in range(2):
        kept = pools[0].take(layer, slots[12:16], torch.float32)
        for ours, theirs in zip(kept, pools[1].take(layer, slots, torch.float32), strict=True):
            assert torch.equal(ours, theirs[4:8])
            assert not theirs[8:].any()
            assert not theirs[:4].any()
