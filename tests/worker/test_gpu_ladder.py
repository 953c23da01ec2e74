"""What is decided for a GPU without one: sizes of steps, and memory."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_models import make

from penstock_worker.attention.gpu.tiles import (
    LEAST_ROWS,
    MOST_SPLITS,
    ROWS,
    SPLIT,
    split_tokens,
    tile_rows,
)
from penstock_worker.gpu_memory import (
    COLLECTIVES,
    OVERHEAD,
    SAMPLING,
    DeviceMemory,
    kv_room,
    parameters,
    step_bytes,
)
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.gpu.ladder import LARGEST, ladder, padded_size
from penstock_worker.tensor_parallel.shares import share_of

GIB = 1 << 30


@given(st.integers(1, 2000))
def test_a_ladder_reaches_as_far_as_it_must_in_few_steps(max_num_seqs: int) -> None:
    sizes = ladder(max_num_seqs)
    wanted = min(max_num_seqs, LARGEST)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] >= wanted
    assert all(size < wanted for size in sizes[:-1])
    assert len(sizes) <= 14


def test_a_third_of_a_large_step_is_padding_at_most() -> None:
    sizes = ladder(LARGEST)
    assert sizes[:8] == (1, 2, 4, 8, 12, 16, 24, 32)
    for count in range(8, LARGEST + 1):
        size = padded_size(count, sizes)
        assert size is not None
        assert (size - count) * 3 < size


def test_a_step_beyond_the_ladder_is_not_padded() -> None:
    assert padded_size(LARGEST + 1, ladder(1000)) is None


@given(st.integers(1, 1 << 24))
def test_splits_depend_on_the_longest_context_alone_and_are_bounded(longest: int) -> None:
    split = split_tokens(longest)
    assert split >= SPLIT
    assert split * MOST_SPLITS >= longest
    assert split == SPLIT or split * MOST_SPLITS < 2 * longest


def test_wider_heads_have_fewer_rows_in_a_tile() -> None:
    assert [tile_rows(2 * dim) for dim in (64, 128, 256)] == [ROWS, ROWS, ROWS // 2]
    assert [tile_rows(4 * dim) for dim in (64, 128, 256, 512)] == [
        ROWS, ROWS // 2, LEAST_ROWS, LEAST_ROWS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("tiny")
    make("llama-gqa", folder)
    return read_config(folder)


def test_parameters_are_those_of_the_checkpoint_but_for_norms(tmp_path: Path) -> None:
    for family in ("llama-gqa", "llama-mqa-tied", "gemma3"):
        make(family, tmp_path / family)
        with safe_open(str(tmp_path / family / "model.safetensors"), framework="pt") as file:
            sizes = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        expected = sum(tensor.numel() for tensor in sizes if tensor.ndim == 2)
        assert parameters(read_config(tmp_path / family)) == expected


def room(shape: ModelConfig, memory: DeviceMemory, share: float = 0.9, tokens: int = 8192) -> int:
    return kv_room(memory, share, shape, 2, max_num_seqs=256, max_num_batched_tokens=tokens)


@given(st.integers(2 * GIB, 140 * GIB), st.floats(0.5, 1.0), st.data())
def test_kv_takes_what_its_share_leaves(
    shape: ModelConfig, total: int, share: float, data: st.DataObject
) -> None:
    others = data.draw(st.integers(0, total))
    memory = DeviceMemory(total, total - others)
    used = others + 2 * parameters(shape) + step_bytes(shape, 2, 8192, 256)
    try:
        found = room(shape, memory, share)
    except ValueError:
        assert used + GIB > total * share
        return
    assert 0 < found <= total * share - used


def test_what_others_hold_and_larger_steps_need_is_not_there_for_kv(shape: ModelConfig) -> None:
    free = room(shape, DeviceMemory(24 * GIB, 24 * GIB))
    assert room(shape, DeviceMemory(24 * GIB, 20 * GIB)) == free - 4 * GIB
    assert room(shape, DeviceMemory(24 * GIB, 24 * GIB), tokens=16384) < free


def test_a_rank_has_room_for_its_part_and_for_whole_rows_of_logits(shape: ModelConfig) -> None:
    large = dataclasses.replace(shape, num_layers=32, hidden_size=4096, vocab_size=128_000)
    memory, part = DeviceMemory(24 * GIB, 24 * GIB), share_of(large, 2)
    room = kv_room(memory, 0.9, part, 2, max_num_seqs=256, max_num_batched_tokens=64, ranks=2)
    logits = 128_000 * SAMPLING * 256
    weights = 2 * parameters(part)
    assert parameters(part) * 2 == parameters(large)
    assert room < 24 * GIB * 0.9 - weights - logits - OVERHEAD - COLLECTIVES
    assert room > 24 * GIB * 0.9 - weights - logits - OVERHEAD - COLLECTIVES - GIB


def test_a_gpu_that_is_too_small_is_told_with_what_takes_the_room(shape: ModelConfig) -> None:
    large = dataclasses.replace(shape, num_layers=32, hidden_size=4096, intermediate_size=14336)
    with pytest.raises(ValueError, match=r"10\.6 GiB by the weights") as refused:
        room(large, DeviceMemory(8 * GIB, 8 * GIB))
    assert "--gpu-memory-utilization allows 90%" in str(refused.value)
    assert "--max-num-batched-tokens" in str(refused.value)
