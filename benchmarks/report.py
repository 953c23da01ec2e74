"""How every benchmark tells its figures: one JSON object per line, full runs kept in results/."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def line(
    benchmark: str,
    metric: str,
    case: str,
    unit: str,
    ours: float,
    *,
    peer: str | None = None,
    peer_value: float | None = None,
    limit: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a figure as every benchmark prints it; `more` is what explains it."""
    return {
        "benchmark": benchmark,
        "metric": metric,
        "case": case,
        "unit": unit,
        "ours": round(ours, 3),
        "peer": peer,
        "peer_value": None if peer_value is None else round(peer_value, 3),
        "ratio": round(ours / peer_value, 3) if peer_value else None,
        "limit": limit,
        "commit": commit(),
        "machine": machine(),
        **more,
    }


def tell(figure: dict[str, Any], *, keep: bool) -> None:
    """Print a figure; a full run's is also appended to the benchmark's results."""
    text = json.dumps(figure)
    print(text, flush=True)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{figure['benchmark']}.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def commit() -> str:
    """Return the commit that was measured, marked when the tree differs from it."""

    def git(*arguments: str) -> str:
        found = subprocess.run(
            ["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True
        )
        return found.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "worker", "gateway", "operator")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """Return the number of processors and their name."""
    name = platform.machine()
    for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if text.startswith("model name"):
            name = text.split(":")[1].strip()
            break
    return f"{os.cpu_count()} x {name}"
