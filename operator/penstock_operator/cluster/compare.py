"""Whether an object is as it should be already. Pure.

The API server adds defaults and others add fields of their own, so what is wanted has to be found
inside what is there; lists have to be equal in length and order, as they are replaced whole.
"""

from typing import Any


def contains(there: Any, wanted: Any) -> bool:
    """Return whether all that is wanted is there."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and contains(there[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(there, list)
            and len(there) == len(wanted)
            and all(map(contains, there, wanted))
        )
    return bool(there == wanted)


def missing(there: Any, wanted: Any, path: str = "") -> list[str]:
    """Return where what is wanted is not there, for the reason of an action."""
    if not isinstance(wanted, dict) or not isinstance(there, dict):
        return [] if contains(there, wanted) else [path.removeprefix(".")]
    return [
        found
        for key, value in wanted.items()
        for found in (
            missing(there[key], value, f"{path}.{key}")
            if key in there
            else [f"{path}.{key}".removeprefix(".")]
        )
    ]


def merge_patch(there: Any, wanted: Any) -> Any:
    """Return the JSON merge patch (RFC 7386) that makes one object another; empty: they are equal.

    Both are objects; what is not wanted any more is removed.
    """
    patch: dict[str, Any] = {key: None for key in there if key not in wanted}
    for key, value in wanted.items():
        before = there.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif key not in there or before != value:
            patch[key] = value
    return patch
