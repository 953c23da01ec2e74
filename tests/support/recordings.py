"""Forms with a recording, as a client writes them."""

import random
from collections.abc import Mapping
from typing import Any

import httpx

SOUND = random.Random(0).randbytes(20_000)


def form(fields: Mapping[str, Any], sound: bytes = SOUND) -> tuple[bytes, dict[str, str]]:
    """Return a body, and the headers that say what it is."""
    files = {"file": ("a.wav", sound)}
    request = httpx.Request("POST", "http://x", data=fields, files=files)
    return request.read(), {"content-type": request.headers["content-type"]}
