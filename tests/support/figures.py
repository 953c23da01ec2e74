"""Figures that only a test can take, kept where the benchmarks keep theirs."""

import importlib.util
from pathlib import Path
from typing import Any

REPORT = Path(__file__).parents[2] / "benchmarks" / "report.py"


def keep(benchmark: str, metric: str, case: str, unit: str, value: float, **more: Any) -> None:
    """Append a figure to `benchmarks/results/<benchmark>.jsonl` and print it."""
    spec = importlib.util.spec_from_file_location("report", REPORT)
    assert spec is not None
    assert spec.loader is not None
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    report.tell(report.line(benchmark, metric, case, unit, value, **more), keep=True)
