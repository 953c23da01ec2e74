"""The GPU's attention kernels, in Triton's interpreter on the CPU, beside the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="pip install triton, to test the GPU's kernels")

from penstock_worker.attention.gpu import backend, tiles
from penstock_worker.attention.gpu.staging import stage
from penstock_worker.attention.interface import Sequence, StepAttention
from penstock_worker.attention.pool import KVPool
from penstock_worker.attention.reference import ReferenceAttention

BLOCKS, BLOCK_SIZE = 24, 8


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contexts that an interpreter can read have several splits and steps all the same."""
    monkeypatch.setattr(tiles, "SPLIT", 32)
    monkeypatch.setattr(backend, "STEP", 16)
    monkeypatch.setattr(tiles, "ROWS", 16)


def pool(kv_heads: int, head_dim: int, dtype: torch.dtype) -> KVPool:
    """Return a pool full of random numbers: what must not be read is there to be read."""
    found = KVPool(
        num_layers=2,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        num_blocks=BLOCKS,
        block_size=BLOCK_SIZE,
        dtype=dtype,
    )
    generator = torch.Generator().manual_seed(1)
    for kept in (*found.keys, *found.values):
        kept.copy_(torch.randn(kept.shape, generator=generator))
    return found


def sequences(lengths: list[tuple[int, int]]) -> list[Sequence]:
    """Return sequences of (tokens computed before, tokens now), in blocks that lie anywhere."""
    free = torch.randperm(BLOCKS, generator=torch.Generator().manual_seed(2)).tolist()
    found, row = [], 0
    for computed, count in lengths:
        blocks = [free.pop() for _ in range(-(-(computed + count) // BLOCK_SIZE))]
        found.append(Sequence(row, count, computed, blocks))
        row += count
    return found


def triton(
    of: KVPool, windows: tuple[int, ...], scale: float, heads: int, cap: float = 0.0
) -> backend.TritonAttention:
    return backend.TritonAttention(of, windows, scale, heads=heads, max_model_len=192, cap=cap)


def compare(
    lengths: list[tuple[int, int]],
    *,
    kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 16,
    window: int = 0,
    cap: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Let both back-ends compute a step of two layers, and compare what they give and keep."""
    step, tokens = sequences(lengths), sum(count for _, count in lengths)
    generator = torch.Generator().manual_seed(3)
    heads = group * kv_heads
    qkv = torch.randn(2, tokens, heads + 2 * kv_heads, head_dim, generator=generator).to(dtype)
    windows, scale = (0, window), head_dim**-0.5
    pools = [pool(kv_heads, head_dim, dtype) for _ in range(2)]
    steps: list[StepAttention] = [
        ReferenceAttention(pools[0], windows, scale, cap).begin(step),
        triton(pools[1], windows, scale, heads, cap).begin(step),
    ]
    close = 1e-5 if dtype is torch.float32 else 4e-3
    for layer in range(2):
        parts = torch.split(qkv[layer], [heads, kv_heads, kv_heads], 1)
        expected, found = (one.attend(layer, *parts) for one in steps)
        torch.testing.assert_close(found, expected, atol=close, rtol=close)
        assert torch.equal(pools[0].keys[layer], pools[1].keys[layer])
        assert torch.equal(pools[0].values[layer], pools[1].values[layer])


@pytest.mark.parametrize(
    "lengths",
    [
        [(0, 1)],
        [(0, 5)],
        [(0, 40)],
        [(31, 1)],
        [(32, 1)],
        [(70, 1), (3, 1), (0, 1)],
        [(20, 33)],
        [(0, 9), (15, 1), (40, 20), (63, 1)],
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [0, 6])
def test_a_step_is_that_of_the_reference(lengths: list[tuple[int, int]], window: int) -> None:
    compare(lengths, window=window)


@pytest.mark.parametrize(
    ("kv_heads", "group"), [(1, 1), (1, 4), (4, 1), (2, 3)], ids=["one", "mqa", "mha", "odd"]
)
@pytest.mark.parametrize("head_dim", [8, 24])
def test_every_arrangement_of_heads(kv_heads: int, group: int, head_dim: int) -> None:
    compare([(9, 12), (50, 1)], kv_heads=kv_heads, group=group, head_dim=head_dim)


def test_capped_scores_are_those_of_the_reference() -> None:
    compare([(0, 9), (15, 1), (40, 20), (63, 1)], window=20, cap=0.5)


def test_half_precision_loses_no_more_than_it_must() -> None:
    compare([(0, 9), (15, 1), (40, 20), (63, 1)], dtype=torch.float16)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=3),
    st.sampled_from([0, 1, 8, 30]),
)
def test_any_step_is_that_of_the_reference(lengths: list[tuple[int, int]], window: int) -> None:
    compare(lengths, window=window)


def test_a_token_comes_out_the_same_in_any_batch() -> None:
    shapes = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(4))
    query, kv = shapes[:, :], shapes[:, :2]
    step = sequences([(40, 1), (90, 1)])
    both = triton(pool(2, 16, torch.float32), (0, 0), 0.25, 4).begin(step)
    together = both.attend(0, query, kv, kv)
    alone = triton(pool(2, 16, torch.float32), (0, 0), 0.25, 4).begin(step[:1])
    assert torch.equal(alone.attend(0, query[:1], kv[:1], kv[:1]), together[:1])


def test_rows_that_only_fill_up_store_and_change_nothing() -> None:
    step = sequences([(40, 1), (90, 1)])
    of = triton(pool(2, 16, torch.float32), (0, 6), 0.25, 4)
    padded = of.cut(step).padded(5)
    assert padded.slots.tolist()[2:] == [-1, -1, -1]
    staged = stage(padded.arrays, torch.device("cpu"))
    qkv = torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(4))
    before = [kept.clone() for kept in (of.pool.keys[1], of.pool.values[1])]
    for layer in range(2):
        alone = triton(pool(2, 16, torch.float32), (0, 6), 0.25, 4).begin(step)
        expected = alone.attend(layer, qkv[:2], qkv[:2, :2], qkv[:2, 2:])
        found = backend.TritonStep(of, staged, of.most_splits).attend(
            layer, qkv, qkv[:, :2], qkv[:, 2:]
        )
        assert torch.equal(found[:2], expected)
    others = torch.ones(len(before[0]), dtype=torch.bool)
    others[torch.from_numpy(padded.slots[:2]).long()] = False
    for kept, was in zip((of.pool.keys[1], of.pool.values[1]), before, strict=True):
        assert torch.equal(kept[others], was[others])
