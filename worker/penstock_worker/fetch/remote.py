"""What is fetched: files with their sizes and digests, and where they come from."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import httpx

Algorithm = Literal["sha256", "md5", "crc32c", "git"]
BYTES: Mapping[Algorithm, int] = {"sha256": 32, "md5": 16, "crc32c": 4, "git": 20}
"""Of a digest."""

STORED_AS_IS = frozenset({"", "identity", "aws-chunked"})
"""Content encodings of what is sent as it was uploaded; some SDKs leave their framing's name."""


class FetchError(Exception):
    """The model cannot be fetched; says why and what to do, for people who see nothing else."""


@dataclass(frozen=True)
class Digest:
    """What a file's content must hash to."""

    algorithm: Algorithm
    """`git` is SHA-1 over a header and the content, as git names blobs."""
    value: str
    """Hexadecimal, lower case."""

    @classmethod
    def of_base64(cls, algorithm: Algorithm, text: str) -> "Digest | None":
        """Return a digest that a header has; None where that is none."""
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:
            return None
        return cls(algorithm, value.hex()) if len(value) == BYTES[algorithm] else None


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch."""

    name: str
    size: int
    url: str
    digest: Digest | None = None
    """None: the origin publishes none, so only the size is checked."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with the request, so that a file that changes in between is noticed."""


@dataclass(frozen=True)
class Listing:
    """A model at one moment."""

    version: str
    """Equal for equal content: a commit, or a digest of the listing."""
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Origin(Protocol):
    """A place that models come from."""

    @property
    def client(self) -> httpx.Client:
        """Return the client that signs requests to it."""
        ...

    def listing(self) -> Listing:
        """Return the files of the model.

        Raises:
            FetchError: there is no such model, or no access to it.
        """
        ...

    def explain(self, response: httpx.Response) -> str:
        """Return what an answer other than success means, and what to do."""
        ...
