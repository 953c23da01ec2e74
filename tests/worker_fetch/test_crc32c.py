"""CRC-32C, held against its definition and the examples of RFC 3720, appendix B.4."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_hub import crc32c

from penstock_worker.fetch.crc32c import ROW, Crc32c


def digest(*parts: bytes) -> str:
    content = Crc32c()
    for part in parts:
        content.update(part)
    return content.hexdigest()


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"", "00000000"),
        (b"123456789", "e3069283"),
        (bytes(32), "8a9136aa"),
        (b"\xff" * 32, "62a8ab43"),
        (bytes(range(32)), "46dd794e"),
        (bytes(range(31, -1, -1)), "113fdb5c"),
    ],
)
def test_checksums_are_those_of_the_published_examples(content: bytes, value: str) -> None:
    assert digest(content) == value


@settings(max_examples=20, deadline=None)
@given(
    st.randoms(use_true_random=False), st.integers(0, 3 * ROW), st.lists(st.integers(0, 3 * ROW))
)
def test_rows_that_are_folded_leave_the_checksum_of_the_definition(
    random: Random, size: int, cuts: list[int]
) -> None:
    content = random.randbytes(size)
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    parts = [content[start:end] for start, end in pairwise(edges)]
    assert digest(*parts) == crc32c(content).hex()
