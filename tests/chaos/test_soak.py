"""Everything at random, for a while: nothing is lost, and nothing is left of it.

The benchmark that does this for long, in small.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from program_group import finished

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults.py"
SEED = 11


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    command: list[str | Path] = [sys.executable, FAULTS, "--quick", "--seconds", "40"]
    command += ["--seed", str(SEED), "--scenario", "F22"]
    done = finished(command)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    return {one["metric"]: one for one in found}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("metric", ["lost", "truncated", "duplicated", "mismatched"])
def test_no_stream_suffers_from_whatever_happens(
    figures: dict[str, dict[str, Any]], metric: str
) -> None:
    assert figures[metric]["streams"] > 0
    assert figures[metric]["hit"] > 0
    assert figures[metric]["ours"] == 0


@pytest.mark.timeout(900)
def test_books_balance_and_nothing_grows(figures: dict[str, dict[str, Any]]) -> None:
    found = figures["lost"]
    assert found["accidents"] > 3
    assert found["abandoned"] > 0
    assert found["problems"] == []
