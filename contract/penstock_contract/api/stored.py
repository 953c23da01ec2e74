"""Reading what is stored already, perhaps by a version of Penstock that knew other fields.

An API server adds the fields of a newer version with their defaults to every object at once, and
the local runtime keeps those of an older one: no mistake of a user's, and no reason not to serve
it. What a user types is checked without this.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

T = TypeVar("T")


def as_stored(validate: Callable[[Any], T], found: Any) -> T:
    """Return a stored value as `validate` makes it, without the fields that this version lacks.

    Raises:
        ValidationError: anything else is wrong with it.
    """
    try:
        return validate(found)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        if not unknown:
            raise
    return validate(_without(found, unknown))


def _without(found: Any, places: Iterable[tuple[int | str, ...]]) -> Any:
    pruned = copy.deepcopy(found)
    for *way, last in places:
        inside = pruned
        for step in way:
            if isinstance(step, int) or (isinstance(inside, dict) and step in inside):
                inside = inside[step]  # else it is the name of a choice, not a step
        if isinstance(inside, dict):
            inside.pop(last, None)
    return pruned
