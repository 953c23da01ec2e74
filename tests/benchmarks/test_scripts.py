"""Benchmarks run seldom and for long: what they import and their options must not rot meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(p.name for p in FOLDER.glob("*.py") if "parse_args()" in p.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_says_how_it_is_run(script: str) -> None:
    asked = [sys.executable, str(FOLDER / script), "--help"]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("usage:")
