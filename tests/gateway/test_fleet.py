import os
from pathlib import Path

import pytest

from penstock_contract.api import Role
from penstock_contract.fleet import Fleet, FleetModel, FleetWorker, WorkerState
from penstock_gateway.fleet.directory import Directory
from penstock_gateway.fleet.source import FleetFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.json"


def fleet(generation: int) -> Fleet:
    return Fleet(generation=generation, models=(FleetModel(name="m", deployment="d"),))


def test_a_fleet_is_told_once(path: Path) -> None:
    fleet(1).write(path)
    source = FleetFile(path)
    assert source.poll() == fleet(1)
    assert source.poll() is None


def test_every_replacement_is_told(path: Path) -> None:
    source = FleetFile(path)
    for generation in (1, 2, 3):
        fleet(generation).write(path)
        assert source.poll() == fleet(generation)


def test_a_replacement_of_the_same_size_and_time_is_told(path: Path) -> None:
    fleet(1).write(path)
    source = FleetFile(path)
    source.poll()
    before = path.stat()
    fleet(2).write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source.poll() == fleet(2)


def test_a_missing_file_changes_nothing(path: Path) -> None:
    source = FleetFile(path)
    assert source.poll() is None
    fleet(1).write(path)
    assert source.poll() == fleet(1)
    path.unlink()
    assert source.poll() is None
    fleet(2).write(path)
    assert source.poll() == fleet(2)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"generation": -1}',
        b'{"models": [{}]}',
        pytest.param(
            b'{"models": "\xff"}',
        ),
    ],
)
def test_a_damaged_file_changes_nothing_until_it_is_mended(path: Path, damage: bytes) -> None:
    source = FleetFile(path)
    path.write_bytes(damage)
    assert source.poll() is None
    fleet(2).write(path)
    assert source.poll() == fleet(2)


def test_a_lasting_problem_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FleetFile(path)
    for _ in range(5):
        source.poll()
    assert len(caplog.records) == 1
    assert str(path) in caplog.text


def worker(name: str, deployment: str, state: WorkerState = WorkerState.READY) -> FleetWorker:
    return FleetWorker(
        id=name, url="http://x", deployment=deployment, pool="p", role=Role.UNIFIED, state=state
    )


def test_a_model_is_found_by_its_name_its_aliases_and_its_adapters() -> None:
    model = FleetModel(
        name="org/model", aliases=("short", "other"), adapters=("sql",), deployment="d"
    )
    directory = Directory(Fleet(models=(model,)))
    assert list(directory.served) == ["org/model", "short", "other", "sql"]
    assert all(directory.model(name) is model for name in directory.served)
    assert directory.model("d") is None


def test_only_ready_workers_of_the_model_take_requests() -> None:
    model = FleetModel(name="m", deployment="d")
    workers = (
        worker("ready", "d"),
        worker("draining", "d", WorkerState.DRAINING),
        worker("other", "elsewhere"),
    )
    directory = Directory(Fleet(models=(model,), workers=workers))
    assert [found.id for found in directory.ready(model)] == ["ready"]
    assert directory.any_ready


@pytest.mark.parametrize(
    "workers", [(), (worker("w", "d", WorkerState.DRAINING),), (worker("w", "elsewhere"),)]
)
def test_without_a_ready_worker_of_any_model_nothing_is_ready(
    workers: tuple[FleetWorker, ...],
) -> None:
    directory = Directory(Fleet(models=(FleetModel(name="m", deployment="d"),), workers=workers))
    assert not directory.any_ready


def test_an_adapter_is_asked_only_of_workers_that_have_it() -> None:
    def worker(name: str, role: Role, adapters: tuple[str, ...] | None) -> FleetWorker:
        return FleetWorker(
            id=name, url="http://w", deployment="d", pool=str(role), role=role, adapters=adapters
        )

    model = FleetModel(name="m", deployment="d", adapters=("sql",))
    found = Directory(
        Fleet(
            generation=1,
            models=(model,),
            workers=(
                worker("has", Role.DECODE, ("sql",)),
                worker("lacks", Role.DECODE, ()),
                worker("untold", Role.DECODE, None),
                worker("prefill", Role.PREFILL, ("law", "sql")),
                worker("other", Role.PREFILL, ("law",)),
            ),
        )
    )
    whole = [one.id for one in found.for_whole_requests(model, "sql")]
    assert whole == ["has", "untold"]
    assert len(found.for_whole_requests(model)) == 3
    assert [one.id for one in found.for_prompts(model, "sql")] == ["prefill"]
    assert len(found.for_prompts(model)) == 2
