"""Real workers and gateways that die, leave and cannot be reached, under load: nothing is lost.

The benchmark that publishes these figures, in small.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from program_group import finished

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults.py"
SCENARIOS = ("F1", "F3", "F6", "F11")


@pytest.fixture(scope="module")
def figures() -> list[dict[str, Any]]:
    command: list[str | Path] = [sys.executable, FAULTS, "--quick", "--workers", "3"]
    command += ["--seconds", "8", "--scenario", *SCENARIOS]
    done = finished(command)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["case"] for one in found} == set(SCENARIOS), done.stderr
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("metric", ["lost", "truncated", "duplicated", "mismatched"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_stream_suffers(figures: list[dict[str, Any]], scenario: str, metric: str) -> None:
    (found,) = [one for one in figures if (one["case"], one["metric"]) == (scenario, metric)]
    assert found["streams"] > 0
    assert found["hit"] > 0
    assert found["problems"] == []
    assert found["ours"] == 0
