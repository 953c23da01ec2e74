"""The exact bytes of single tokens: a token may be a part of a character, which is no text.

Two spellings are in use. Byte-level BPE writes each byte as a printable letter (GPT-2's alphabet);
SentencePiece-style vocabularies write lone bytes as `<0xE2>` and a space as `▁`.
"""

import re

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _alphabet() -> dict[str, int]:
    """Return GPT-2's letters and the bytes that they stand for."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


_LETTERS = _alphabet()


def token_bytes(token: str, *, byte_level: bool) -> bytes:
    """Return the bytes of a token as the vocabulary spells it."""
    if byte_level and all(letter in _LETTERS for letter in token):
        return bytes(_LETTERS[letter] for letter in token)
    byte = _BYTE.fullmatch(token)
    if byte:
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode()
