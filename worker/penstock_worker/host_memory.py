"""How much memory this process may still take on its machine."""

from pathlib import Path

_HOST = Path("/proc/meminfo")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Limit, use, its parts, and those that go before anything fails: of version 2, and of 1.

Files that were read twice, as weights are that were checked first, are active ones."""


def available_memory(host: Path = _HOST, groups: Path = _CONTROL_GROUPS) -> int | None:
    """Return bytes, as the machine and the container's limit allow; None where neither tells.

    Args:
        host: the kernel's `meminfo`, which in a container is the whole machine's.
        groups: where control groups are mounted; in a container that is its own.
    """
    known = [found for found in (_of_host(host), _of_container(groups)) if found is not None]
    return min(known, default=None)


def _of_host(path: Path) -> int | None:
    found = _numbers(path).get("MemAvailable:")
    return None if found is None else found * 1024


def _of_container(groups: Path) -> int | None:
    for limit, used, parts, reclaimable in _FILES:
        most, now = _number(groups / limit), _number(groups / used)
        if most is not None and now is not None:
            found = _numbers(groups / parts)
            return max(0, most - now + sum(found.get(name, 0) for name in reclaimable))
    return None


def _number(path: Path) -> int | None:
    """Return what a file says; None where there is none, or no limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _numbers(path: Path) -> dict[str, int]:
    """Return a file's lines, each a name and a number."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1}
