"""One runtime per folder, and never a signal to somebody else's process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_operator.local import spawn as spawning
from penstock_operator.local.home import Home
from penstock_operator.local.ownership import AlreadyRunning, Identity, RuntimeLock, owner
from penstock_operator.local.spawn import end_stale, remember, spawn

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.make()
    return found


@pytest.fixture
def stubborn() -> Iterator["subprocess.Popen[str]"]:
    """A process that ignores SIGTERM, leading a group as our processes do."""
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_folder_has_one_owner_at_a_time(home: Home) -> None:
    assert owner(home) is None
    lock = RuntimeLock.take(home)
    assert owner(home) == Identity.of(os.getpid())
    with pytest.raises(AlreadyRunning):
        RuntimeLock.take(home)
    lock.close()
    RuntimeLock.take(home).close()


def test_a_lock_that_is_handed_over_is_held_without_a_gap(home: Home) -> None:
    lock = RuntimeLock.take(home)
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.file]
    ) as child:
        lock.close()
        with pytest.raises(AlreadyRunning):
            RuntimeLock.take(home)
        child.communicate(b"\n")
    RuntimeLock.take(home).close()


def test_a_pid_that_was_given_to_another_process_is_not_ours(
    home: Home, stubborn: "subprocess.Popen[str]"
) -> None:
    identity = Identity.of(stubborn.pid)
    assert identity is not None
    home.processes.write_text(json.dumps([[identity.pid, identity.started - 1]]))
    assert end_stale(home) == 0
    assert identity.alive


def test_what_a_killed_runtime_left_is_ended_even_if_it_ignores_sigterm(
    home: Home, stubborn: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawning, "STALE_GRACE", 0.2)
    remember(home, [stubborn.pid])
    assert end_stale(home) == 1
    assert stubborn.wait(timeout=60) != 0
    assert end_stale(home) == 0


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Identity.of(process.pid) is None


def test_a_program_that_cannot_be_run_says_so_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with spawn(["/no/such/program"], {}, log) as process:
        assert process.wait() == 1
    assert log.read_text() == "cannot run /no/such/program: No such file or directory\n"
