"""A file is the block that was written, or it is nothing."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.tiers.block_file import checksum, header, kv_of

FINGERPRINT = b"f" * 32
NAME = b"n" * 16


def file_of(kv: bytes) -> bytearray:
    head = header(FINGERPRINT, NAME, len(kv))
    return bytearray(head + kv + checksum([head, kv]))


def read(file: bytes | bytearray, fingerprint: bytes = FINGERPRINT, name: bytes = NAME) -> object:
    return kv_of(memoryview(file), fingerprint, name)


@given(st.binary(max_size=300))
def test_what_was_written_is_read(kv: bytes) -> None:
    assert read(file_of(kv)) == kv


@given(st.binary(max_size=100), st.data())
def test_a_change_anywhere_is_noticed(kv: bytes, data: st.DataObject) -> None:
    file = file_of(kv)
    for place in data.draw(st.sets(st.integers(0, len(file) - 1), min_size=1, max_size=5)):
        file[place] ^= data.draw(st.integers(1, 255))
    assert read(file) is None


@given(st.binary(max_size=100), st.data())
def test_a_file_that_was_cut_or_grew_is_no_block(kv: bytes, data: st.DataObject) -> None:
    file = file_of(kv)
    assert read(file[: data.draw(st.integers(0, len(file) - 1))]) is None
    assert read(file + data.draw(st.binary(min_size=1, max_size=20))) is None


def test_another_block_or_model_is_not_taken_for_it() -> None:
    file = file_of(b"kv")
    assert read(file, name=b"m" * 16) is None
    assert read(file, fingerprint=b"g" * 32) is None
