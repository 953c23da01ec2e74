"""Reads an upload: multipart/form-data (RFC 7578), straight into a file, without keeping it.

What a client sends is bounded here: bytes of the file, number and size of the other fields.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock_contract.errors import ApiError, ErrorCode

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_FIELDS: Final = 16
LONGEST_FIELD: Final = 1024
"""Bytes."""
LONGEST_HEADER: Final = 1024
IGNORED: Final = 4
"""Times the bytes of a file are read on from a refused client, so that it reads the refusal."""


MOST_AT_ONCE: Final = 4
"""Uploads of a tenant; what is under way is not among what it has stored."""


class Uploads:
    """Counts those under way."""

    def __init__(self) -> None:
        self._under_way = Counter[str]()

    @contextmanager
    def one(self, tenant: str) -> Iterator[None]:
        """Count one for as long as it takes.

        Raises:
            ApiError: the tenant has too many.
        """
        if self._under_way[tenant] >= MOST_AT_ONCE:
            message = f"{MOST_AT_ONCE} uploads are under way, as many as may be."
            raise ApiError(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=1.0)
        self._under_way[tenant] += 1
        try:
            yield
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant]


@dataclass
class Form:
    """What has been read."""

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None
    """None: there was no file."""
    bytes: int = 0
    """Of the file."""


class Upload:
    """Reads one body.

    Args:
        content_type: of the request.
        target: where the file goes.
        most: bytes that it may have.

    Raises:
        ApiError: it is no form.
    """

    def __init__(self, content_type: str, target: BinaryIO, most: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            message = "send the file as multipart/form-data"
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
        self.form = Form()
        self._target = target
        self._most = most
        self._header, self._value = b"", b""
        self._name = ""
        self._parts = 0
        self._is_file = False
        self._text = bytearray()
        self._whole = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part,
            "on_header_begin": self._begin_header,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        self._parser = MultipartParser(options[b"boundary"], callbacks)

    async def read(self, body: AsyncIterator[bytes]) -> Form:
        """Return what a body holds, when it is whole.

        Raises:
            ApiError: it is too large, or not what it should be.
        """
        try:
            async for piece in body:
                # In a thread: it takes time, and a disk that is behind makes writers wait.
                await run_in_threadpool(self._parser.write, piece)
        except ApiError:
            await _ignore(body, self._most * IGNORED)
            raise
        except MultipartParseError as error:
            await _ignore(body, self._most * IGNORED)
            raise _wrong(f"the form cannot be read: {error}") from error
        if not self._whole:
            raise _wrong("the form is not complete")
        if self.form.file_name is None:
            raise _wrong("file is required", "file")
        return self.form

    def _part(self) -> None:
        self._parts += 1
        if self._parts > MOST_FIELDS:
            raise _wrong(f"a form may have {MOST_FIELDS} fields")
        self._name, self._is_file, self._text = "", False, bytearray()

    def _begin_header(self) -> None:
        self._header, self._value = b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = _grown(self._header, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = _grown(self._value, data[start:end])

    def _end_header(self) -> None:
        if self._header.lower() != b"content-disposition":
            return
        _, options = parse_options_header(self._value)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            if self._name != "file" or self.form.file_name is not None:
                raise _wrong("a form has one file, named file", "file")
            self._is_file = True
            self.form.file_name = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += data[start:end]
            if len(self._text) > LONGEST_FIELD:
                raise _wrong(f"{self._name} may have {LONGEST_FIELD} bytes", self._name)
            return
        self.form.bytes += end - start
        if self.form.bytes > self._most:
            message = f"the file has more than {self._most} bytes"
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, message, param="file")
        self._target.write(data[start:end])

    def _end_part(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._whole = True


async def _ignore(body: AsyncIterator[bytes], most: int) -> None:
    async for piece in body:
        most -= len(piece)
        if most < 0:
            return


def _grown(text: bytes, more: bytes) -> bytes:
    if len(text) + len(more) > LONGEST_HEADER:
        raise _wrong("a header of the form is too long")
    return text + more


def _wrong(message: str, param: str | None = None) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, message, param=param)
