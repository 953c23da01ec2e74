"""Status as tables, in the way of kubectl."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


def render(status: Mapping[str, Any], now: datetime, *, wide: bool = False) -> str:
    """Return deployments, pools and workers of a runtime's status as tables."""
    parts = [_deployments(status, now), _pools(status), _workers(status, now, wide=wide)]
    parts.append(_troubles(status))
    return "\n\n".join(part for part in parts if part)


def _deployments(status: Mapping[str, Any], now: datetime) -> str:
    rows = []
    for item in status["items"]:
        ready = next((c for c in item["status"]["conditions"] if c["type"] == "Ready"), None)
        rows.append(
            (
                item["metadata"]["name"],
                item["servedName"],
                ready["status"] if ready else "Unknown",
                item["status"]["poolsSummary"],
                age(item["metadata"]["creationTimestamp"], now),
                f"{status['endpoint']}/v1",
            )
        )
    return columns(("NAME", "MODEL", "READY", "POOLS", "AGE", "URL"), rows)


def _pools(status: Mapping[str, Any]) -> str:
    rows = []
    for item in status["items"]:
        failures = {failure["pool"]: failure for failure in item["failures"]}
        for pool in item["status"]["pools"]:
            failure = failures.get(pool["name"])
            rows.append(
                (
                    f"{item['metadata']['name']}/{pool['name']}",
                    f"{pool['ready']}/{pool['desired']}",
                    str(pool["draining"]),
                    str(failure["restarts"]) if failure else "0",
                    f"{failure['process']} {failure['lastEnd']}" if failure else "-",
                )
            )
    return columns(("POOL", "READY", "DRAINING", "RESTARTS", "LAST FAILURE"), rows)


def _workers(status: Mapping[str, Any], now: datetime, *, wide: bool) -> str:
    rows = []
    for worker in _all_workers(status):
        row = [worker["id"], worker["state"], age(worker["startedAt"], now), worker["url"]]
        if wide:
            row += [worker["role"], worker["revision"][:10], str(worker["pid"])]
        rows.append(tuple(row))
    names = ["WORKER", "STATE", "AGE", "URL"]
    return columns(names + (["ROLE", "REVISION", "PID"] if wide else []), rows)


def _troubles(status: Mapping[str, Any]) -> str:
    """Return what stays as it was, because its object cannot be used."""
    return columns(("NOT USED", "WHY"), list(status.get("troubles", {}).items()))


def _all_workers(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    yield from (worker for item in status["items"] for worker in item["workers"])
    yield from status["leaving"]


def columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their names in aligned columns; nothing when there are no rows."""
    if not rows:
        return ""
    table = [list(names), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(names))]
    lines = (
        "   ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def age(since: str, now: datetime) -> str:
    """Return the time since an RFC 3339 moment, like 5s, 12m, 3h or 4d."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
