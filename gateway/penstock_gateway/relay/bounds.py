"""How much a JSON text may unfold to: a parser's memory and time go by values, not by bytes.

32 MiB of `[],` take a gigabyte and several seconds to parse, and that long nobody else is served.
"""

import re
from typing import Final

from penstock_contract.errors import ApiError, ErrorCode

MAX_VALUES: Final = 1_000_000
"""Of one request; a prompt of a million token ids has as many."""

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A text, or what never ends like one: nothing is looked at twice, whatever it is."""


def check_values(body: bytes) -> None:
    """Refuse a text that would unfold to too much.

    Raises:
        ApiError: it has more than `MAX_VALUES` values.
    """
    if len(body) <= MAX_VALUES or _separators(body) <= MAX_VALUES:
        return
    if separators(body) > MAX_VALUES:
        message = f"the body has more than {MAX_VALUES} values"
        raise ApiError(ErrorCode.REQUEST_TOO_LARGE, message)


def separators(body: bytes) -> int:
    """Return how often values are separated in a JSON text: not in the texts that it has."""
    return _separators(_STRING.sub(b"", body))


def _separators(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")
