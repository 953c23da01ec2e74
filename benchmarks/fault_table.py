"""Prints what `faults.py` has kept, the latest figures of each fault, as a table for docs.

python benchmarks/fault_table.py
"""

import json
from typing import Any, Final

from report import RESULTS

JUDGED: Final = ("lost", "truncated", "duplicated", "mismatched")
GAP: Final = "migration_gap_p99_seconds"
OURS: Final = "Penstock"

Row = dict[str, Any]


def main() -> None:
    """Print the table."""
    lines = (RESULTS / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    rows = latest([json.loads(line) for line in lines])
    print(f"| | router | streams | hit | {' | '.join(JUDGED)} | pause p99 |")
    print("|---|---|" + "---:|" * (len(JUDGED) + 3))
    for (case, router), row in sorted(rows.items(), key=lambda item: order(*item[0])):
        counts = [f"{row[name]:.0f}" for name in JUDGED]
        pause = f"{row[GAP]:.1f} s" if GAP in row else ""
        cells = [case, router, str(row["streams"]), str(row["hit"]), *counts, pause]
        print(f"| {' | '.join(cells)} |")


def latest(figures: list[dict[str, Any]]) -> dict[tuple[str, str], Row]:
    """Return the last figures of each fault and router that streams were judged for."""
    rows: dict[tuple[str, str], Row] = {}
    for found in figures:
        if found["metric"] not in (*JUDGED, GAP):
            continue
        peer = found["peer"]
        row = rows.setdefault((found["case"], peer or OURS), {})
        prefix = "peer_" if peer else ""
        row[found["metric"]] = found["peer_value"] if peer else found["ours"]
        row["streams"], row["hit"] = found[f"{prefix}streams"], found[f"{prefix}hit"]
    return rows


def order(case: str, router: str) -> tuple[int, bool, str]:
    """Return what sorts by the number of the fault, ours first."""
    return int(case[1:]), router != OURS, router


if __name__ == "__main__":
    main()
