"""What memory is left, told by the machine or by the container's limit, whichever is less."""

from pathlib import Path

import pytest

from penstock_worker.host_memory import available_memory

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> Path:
    found = tmp_path / "meminfo"
    found.write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {32 << 20} kB\n")
    return found


def test_without_a_limit_the_machine_tells(host: Path, tmp_path: Path) -> None:
    assert available_memory(host, tmp_path) == 32 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert available_memory(host, tmp_path) == 32 * GIB


def test_a_containers_limit_counts_less_what_it_has_taken(host: Path, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    assert available_memory(host, tmp_path) == GIB


def test_files_that_the_kernel_keeps_for_it_are_not_taken(host: Path, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 7\ninactive_file {GIB}\nactive_file {GIB}\n")
    assert available_memory(host, tmp_path) == 3 * GIB


def test_the_older_control_groups_are_read_too(host: Path, tmp_path: Path) -> None:
    older = tmp_path / "memory"
    older.mkdir()
    (older / "memory.limit_in_bytes").write_text(f"{4 * GIB}\n")
    (older / "memory.usage_in_bytes").write_text(f"{3 * GIB}\n")
    assert available_memory(host, tmp_path) == GIB


def test_a_machine_that_tells_nothing_is_left_to_the_caller(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "none", tmp_path) is None
