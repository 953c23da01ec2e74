"""Messages between processes: JSON, each behind its length. Pure.

{"hello": index}                    who speaks; first on every connection
{"opening": {...}}                  beside it: all that there is to know (`updates`)
{"update": {...}}                   what has changed (`updates`)
{"ask": number, "what": name}       wants an answer
{"answer": number, "with": value}   to what was asked
"""

from typing import Any, Final

import orjson

LENGTH: Final = 4
"""Bytes before each message, most significant first."""
LONGEST: Final = 64 << 20
"""Bytes of a message; a longer one is a mistake."""

Message = dict[str, Any]


def frame(message: Message) -> bytes:
    """Return a message as it is sent."""
    data = orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS)
    return len(data).to_bytes(LENGTH, "big") + data


class Frames:
    """Takes what comes on a connection apart."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are whole now.

        Raises:
            ValueError: what has come is no message.
        """
        data, found, at = self._rest + data, [], 0
        while len(data) - at >= LENGTH:
            size = int.from_bytes(data[at : at + LENGTH], "big")
            if size > LONGEST:
                raise ValueError(f"a message of {size} bytes")
            if len(data) - at - LENGTH < size:
                break
            found.append(orjson.loads(data[at + LENGTH : at + LENGTH + size]))
            at += LENGTH + size
        self._rest = data[at:]
        return found
