"""How much a request for vectors or scores gives a worker to compute. Pure.

Limits and routing go by it, as they go by a prompt's size; no prefix of it is ever looked up.
"""

from collections.abc import Mapping
from typing import Any, Final

from penstock_contract.tasks import PAIR_FIELDS, TEXT_FIELDS

ID_SIZE: Final = 4
"""Bytes that a token id stands for."""
DEPTH: Final = 2
"""Lists in lists of token ids are the deepest that a worker takes."""


def inputs_size(body: Mapping[str, Any]) -> int:
    """Return about how many bytes of text the inputs of a request are; 0 when it has none."""
    size = 0
    for field in TEXT_FIELDS:
        if field in body:
            size += _size(body[field])
    for one, many in PAIR_FIELDS:
        if one in body and many in body:
            size += _pairs(body[one], body[many])
    return size


def _pairs(one: Any, many: Any) -> int:
    """A single text is computed with each of the others."""
    times = len(many) if isinstance(one, str) and isinstance(many, list) else 1
    return times * _size(one) + _size(many)


def _size(value: Any, deep: int = 0) -> int:
    match value:
        case str():
            return len(value)
        case dict():
            text = value.get("text")
            return len(text) if isinstance(text, str) else 0
        case list() if deep < DEPTH:
            return sum(ID_SIZE if type(one) is int else _size(one, deep + 1) for one in value)
        case _:
            return 0
