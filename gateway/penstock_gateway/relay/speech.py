"""A form that asks for the text of a recording: what routing needs of it. Pure.

The form goes on to the worker as it came. What is said in it nobody knows yet, so there is no
prefix that a worker might have cached, and its size is all that tells how long it will take.
"""

from typing import Final

from penstock_gateway.form import Bounds, FormReader, Nowhere

SOUND_BYTES: Final = 64
"""Bytes of a recording that are about as much to compute as a byte of text.

Whisper computes 50 positions of each second, which is 8,000 bytes of an MP3 at 64 kbit/s.
"""
LONGEST_FIELD: Final = 64 * 1024
"""Bytes; a prompt may be the text of the minutes before."""
MOST_FIELDS: Final = 64

_YES: Final = frozenset({"true", "1", "on", "t", "y", "yes"})
"""What is true in a form, as workers read it."""


def read_form(body: bytes, content_type: str) -> tuple[dict[str, object], int]:
    """Return the fields of a form that concern the gateway, and about how much text it is worth.

    Raises:
        ApiError: it is no form with a file, or more than one may be.
    """
    reader = FormReader(content_type, Bounds(len(body), MOST_FIELDS, LONGEST_FIELD), Nowhere())
    reader.feed(body)
    form = reader.close()
    fields: dict[str, object] = {
        name: form.fields[name] for name in ("model", "service_tier") if name in form.fields
    }
    fields["stream"] = form.fields.get("stream", "").lower() in _YES
    return fields, form.bytes // SOUND_BYTES + len(form.fields.get("prompt", ""))
