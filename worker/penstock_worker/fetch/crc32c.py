"""CRC-32C, all that Cloud Storage has of objects that were uploaded in parts. Pure.

A byte at a time, as its definition has it, Python would take hours for large models. So a message
is folded first: a row of words is multiplied by x^(bits of a row) and added to the next row, for
all its words at once, until a single row with the same remainder is left.

Source: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
Instruction", Intel 2009; check values: RFC 3720, appendix B.4.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed."""
ROW = 1 << 16
"""Bytes: so many that NumPy's own work is little beside, and few enough for a core's cache."""
ONES = 0xFFFFFFFF


class Crc32c:
    """As hashlib's: `update` with bytes, then `hexdigest`."""

    def __init__(self) -> None:
        self._row: Words | None = None
        self._rest = b""

    def update(self, data: bytes) -> None:
        """Add bytes."""
        data = self._rest + data
        whole = len(data) // ROW * ROW
        for row in np.frombuffer(data[:whole], "<u4").reshape(-1, ROW // 4):
            self._row = row ^ (_first() if self._row is None else _shifted(self._row))
        self._rest = data[whole:]

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far: 8 hexadecimal digits, the highest first."""
        if self._row is None:
            return f"{_remainder(ONES, self._rest) ^ ONES:08x}"
        register = _remainder(0, self._row.astype("<u4").tobytes())
        return f"{_remainder(register, self._rest) ^ ONES:08x}"


def _remainder(register: int, data: bytes) -> int:
    """Return the register after some bytes more, one at a time."""
    table = _bytes()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _first() -> Words:
    """Return what the first row is added to: a register of ones inverts its first word."""
    found = np.zeros(ROW // 4, np.uint32)
    found[0] = ONES
    return found


def _shifted(row: Words) -> Words:
    """Return all words of a row multiplied by x^(bits of a row)."""
    low, high = _products()
    found: Words = low.take(row & 0xFFFF) ^ high.take(row >> 16)
    return found


@cache
def _bytes() -> list[int]:
    """Return each byte's remainder."""
    found = []
    for register in range(256):
        for _ in range(8):
            register = (register >> 1) ^ (POLYNOMIAL if register & 1 else 0)
        found.append(register)
    return found


@cache
def _products() -> tuple[Words, Words]:
    """Return the products of all low and of all high halves of a word."""
    shift = [_remainder(1 << bit, b"\0") for bit in range(32)]  # by 8 bits, of each bit
    for _ in range(ROW.bit_length() - 1):
        shift = [_product(shift, word) for word in shift]  # twice as far
    return _spanned(shift[:16]), _spanned(shift[16:])


def _product(shift: list[int], word: int) -> int:
    found = 0
    for bit, product in enumerate(shift):
        if word >> bit & 1:
            found ^= product
    return found


def _spanned(products: list[int]) -> Words:
    """Return the products of all numbers, of those of their bits."""
    found: Words = np.zeros(1, np.uint32)
    for product in products:
        found = np.concatenate([found, found ^ np.uint32(product)])
    return found
