"""What processes agree on: block names, errors, metrics, headers, and the fleet file."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from penstock_contract import headers, metrics
from penstock_contract.api.base import quantity, seconds
from penstock_contract.blocks import MAX_SALT, SEED, adapter_salt, block_hash, block_hashes
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import Fleet, FleetModel, FleetWorker
from penstock_contract.instruments import Instruments
from penstock_contract.metrics.worker import VLLM_PREFIX_HITS

ROOT = Path(__file__).parents[2]

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=80)

GOLDEN_PLAIN = ["5755319e7435b6b328396542a9e681c9", "81db9888d7626c7af4ff13403ede6413"]
GOLDEN_SALTED = ["87b5629f29c3b5470e883af0c5e7cd07", "ce6d3f745654b3ad24ffded08b88f274"]


def test_block_hashes_keep_their_golden_values() -> None:
    # Another implementation of the wire format must come to the same names.
    assert block_hashes(range(40), 16)[0].hex() == "eedd4ec522e47583caadbe52d0e12ad4"
    assert [h.hex() for h in block_hashes([1, 2, 3, 2**32 - 1], 2)] == GOLDEN_PLAIN
    assert [h.hex() for h in block_hashes([1, 2, 3, 2**32 - 1], 2, b"tenant")] == GOLDEN_SALTED


@given(tokens, tokens, st.integers(1, 8))
def test_equal_prefixes_and_only_those_have_equal_names(
    left: list[int], right: list[int], size: int
) -> None:
    ours, theirs = block_hashes(left, size), block_hashes(right, size)
    for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        end = (index + 1) * size
        assert (one == other) == (left[:end] == right[:end])


@given(tokens.filter(lambda found: len(found) >= 4), st.binary(min_size=1, max_size=MAX_SALT))
def test_a_salt_changes_every_name(found: list[int], salt: bytes) -> None:
    assert not set(block_hashes(found, 4)) & set(block_hashes(found, 4, salt))


def test_impossible_blocks_are_refused() -> None:
    with pytest.raises(OverflowError):
        block_hash(SEED, [2**32])
    with pytest.raises(ValueError, match="maximum key length"):
        block_hash(SEED, [1], bytes(MAX_SALT + 1))


def test_an_adapters_blocks_have_names_of_their_own() -> None:
    salts = {adapter_salt(name, salt) for name in ("", "a", "b") for salt in (b"", b"a", b"t" * 64)}
    assert len(salts) == 9
    assert max(map(len, salts)) <= MAX_SALT
    assert adapter_salt("", b"tenant") == b"tenant"
    assert adapter_salt("sql", b"tenant").hex().startswith("a71c413f07a40339f92d4ca99ab3ffe2")
    versions = {adapter_salt("sql", b"tenant", version) for version in (b"", b"one", b"two")}
    assert len(versions) == 3


def test_error_codes_are_unique_and_have_client_or_server_statuses() -> None:
    assert max(Counter(code.code for code in ErrorCode).values()) == 1
    for code in ErrorCode:
        assert 400 <= code.status < 600
        assert set(ApiError(code, "why").body()["error"]) == {"message", "type", "param", "code"}


def test_retry_headers_are_whole_and_never_zero() -> None:
    error = ApiError(ErrorCode.NO_CAPACITY, "full", retry_after=0.2)
    assert error.headers() == {"retry-after": "1", "retry-after-ms": "200"}
    assert ApiError(ErrorCode.NO_CAPACITY, "full").headers() == {}


def test_metrics_are_unique_and_well_formed() -> None:
    assert max(Counter(m.name for m in metrics.ALL).values()) == 1
    for metric in metrics.ALL:
        owner = r"(vllm:|penstock_(worker|gateway|batch|operator|autoscaler)_)"
        assert re.fullmatch(owner + "[a-z0-9_]+", metric.name)
        counter = metric.kind is metrics.Kind.COUNTER  # Prometheus adds it
        assert not (counter and metric.name.endswith("_total"))
        assert metric.help.endswith(".")
        assert (metric.kind is metrics.Kind.HISTOGRAM) == bool(metric.buckets)
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_instruments_export_the_declared_names() -> None:
    registry = CollectorRegistry()
    instruments = Instruments(registry, metrics.WORKER)
    instruments.counter(VLLM_PREFIX_HITS).labels("m", "0").inc(3)
    text = generate_latest(registry).decode()
    assert 'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 3.0' in text
    for metric in metrics.WORKER:
        assert f"# HELP {metric.exported_name} " in text


def test_request_ids_cannot_break_lines() -> None:
    fits = headers.REQUEST_ID_PATTERN.fullmatch
    assert fits("a-B_9.z")
    for bad in ("", "a b", "a\n", "a\r\nx: y", "é", "x" * 129):
        assert not fits(bad)


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30.0), ("1m30s", 90.0), ("250ms", 0.25), ("1.5h", 5400.0)]
)
def test_a_duration_is_read_in_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1d", "1s "])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("2", 2.0), (3, 3.0), ("1Gi", 2.0**30), ("1.5k", 1500.0)]
)
def test_a_quantity_is_read_as_a_number(text: str | int, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1Kb"])
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


def test_the_fleet_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    worker = FleetWorker(id="w", url="http://127.0.0.1:1", deployment="d", pool="p", role="Unified")
    fleet = Fleet(generation=3, models=(FleetModel(name="m", deployment="d"),), workers=(worker,))
    Fleet().write(path)
    inode = path.stat().st_ino
    fleet.write(path)
    assert Fleet.read(path) == fleet
    assert path.stat().st_ino != inode  # a rename, never a write into the open file
    assert [p.name for p in tmp_path.iterdir()] == ["fleet.json"]


@pytest.mark.parametrize("folder", [".", "operator", "contract", "tests"])
def test_the_standard_operator_module_is_never_shadowed(folder: str) -> None:
    code = "import operator, sysconfig; print(operator.itemgetter(0)('x'), operator.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / folder, check=True, capture_output=True, text=True
    ).stdout
    assert said.startswith("x ")
    assert "penstock" not in said.rsplit("/lib/", 1)[-1]
    assert said.strip().endswith("operator.py")
