"""What pictures, sounds and videos inside of a prompt count for; vLLM's models may take them. Pure.

In base64 a picture is a million bytes, and for the model some thousand tokens. By its bytes it
would use up a tenant's tokens of a minute, and be late before it has begun.
"""

import re
from typing import Final

from xxhash import xxh3_128_hexdigest

SIZE: Final = 4096
"""Bytes of text that one counts for: about as many tokens as a picture of a megapixel has."""
# As keys: in a text their quotes would be escaped, and its bytes are to be counted.
_URL: Final = b'"url":"data:'
_DATA: Final = b'"data":"'
_INLINE: Final = re.compile(rb'("url":"data:|"data":")([^"]{%d,})' % SIZE)


def counted(prompt: bytes) -> bytes:
    """Return a prompt, as JSON, with something short for each of them; alike for those alike."""
    if len(prompt) < SIZE or (_URL not in prompt and _DATA not in prompt):
        return prompt
    return _INLINE.sub(_stand_in, prompt)


def _stand_in(found: "re.Match[bytes]") -> bytes:
    name = xxh3_128_hexdigest(found[2]).encode()
    return found[1] + name * (SIZE // len(name))
