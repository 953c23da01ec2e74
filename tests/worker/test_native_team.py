"""Threads that compute together do every task once, and none before those of the phase before."""

import shutil
import subprocess
from pathlib import Path

import pytest

from penstock_worker.native.build import SOURCES

PROGRAM = Path(__file__).parents[1] / "support" / "team_stress.cpp"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    made = tmp_path_factory.mktemp("team") / "team_stress"
    flags = ["-std=c++20", "-O2", "-pthread", "-I", str(SOURCES)]
    subprocess.run([compiler, *flags, str(PROGRAM), "-o", str(made)], check=True, timeout=400)
    return made


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_task_is_done_once_and_in_its_phase(program: Path, threads: int) -> None:
    """With more threads than processors, too: some come late to a run, or not at all."""
    ran = subprocess.run(
        [str(program), str(threads), "1000"],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "all once\n")
