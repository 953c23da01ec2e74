"""Reads multipart/form-data (RFC 7578) with one file, piece by piece.

What a client sends is bounded here: bytes of the file, number and size of the other fields.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock_contract.errors import ApiError, ErrorCode

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MEDIA_TYPE: Final = "multipart/form-data"
LONGEST_HEADER: Final = 1024
"""Bytes of a header of a part."""
FILE: Final = "file"
"""Name of the field with the file, in all of OpenAI's forms."""
_LIST: Final = "[]"
"""What the name of a field ends with that may be there several times."""


class Target(Protocol):
    """Where the file goes."""

    def write(self, data: bytes, /) -> int:
        """Take a piece."""


class Nowhere:
    """Keeps nothing of a file."""

    def write(self, data: bytes, /) -> int:
        """Take a piece."""
        return len(data)


@dataclass
class Form:
    """What has been read."""

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None
    """None: there was no file."""
    bytes: int = 0
    """Of the file."""


@dataclass(frozen=True)
class Bounds:
    """What a form may have."""

    file: int
    """Bytes."""
    fields: int = 16
    field: int = 1024
    """Bytes of one."""


class FormReader:
    """Reads one form.

    Args:
        content_type: of the request.
        bounds: what it may have.
        target: where the file goes.

    Raises:
        ApiError: it is no form.
    """

    def __init__(self, content_type: str, bounds: Bounds, target: Target) -> None:
        self._form = Form()
        self._bounds = bounds
        self._target = target
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
        self._parser = MultipartParser(_boundary(content_type), callbacks)

    def feed(self, piece: bytes) -> None:
        """Read on.

        Raises:
            ApiError: it is too large, or not what it should be.
        """
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise _wrong(f"the form cannot be read: {error}") from error

    def close(self) -> Form:
        """Return what was read, when it is whole.

        Raises:
            ApiError: it is not.
        """
        if not self._whole:
            raise _wrong("the form is not complete")
        if self._form.file_name is None:
            raise _wrong(f"{FILE} is required", FILE)
        return self._form

    def _part(self) -> None:
        self._parts += 1
        if self._parts > self._bounds.fields:
            raise _wrong(f"a form may have {self._bounds.fields} fields")
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
            if self._name != FILE or self._form.file_name is not None:
                raise _wrong(f"a form has one file, named {FILE}", FILE)
            self._is_file = True
            self._form.file_name = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            self._text += data[start:end]
            if len(self._text) > self._bounds.field:
                raise _wrong(f"{self._name} may have {self._bounds.field} bytes", self._name)
            return
        self._form.bytes += end - start
        if self._form.bytes > self._bounds.file:
            message = f"the file has more than {self._bounds.file} bytes"
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, message, param=FILE)
        self._target.write(data[start:end])

    def _end_part(self) -> None:
        if self._is_file:
            return
        if self._name in self._form.fields and not self._name.endswith(_LIST):
            # Whoever reads it next might take the other one: a model that was not authorized.
            raise _wrong(f"{self._name} is there twice", self._name)
        self._form.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._whole = True


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    found = options.get(b"boundary", b"")
    if kind != MEDIA_TYPE.encode() or not found:
        message = f"send the file as {MEDIA_TYPE}"
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, message)
    return found


def _grown(text: bytes, more: bytes) -> bytes:
    if len(text) + len(more) > LONGEST_HEADER:
        raise _wrong("a header of the form is too long")
    return text + more


def _wrong(message: str, param: str | None = None) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, message, param=param)
