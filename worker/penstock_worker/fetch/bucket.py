"""The files under one prefix of a bucket: Amazon's protocol, which Google's storage speaks, too.

Three requests are all that is needed (list, head, get), so they are made here; botocore wants an
older python-dateutil than Kubernetes' client does, and the two share a lock.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote
from xml.etree import ElementTree

import httpx

from penstock_worker.fetch.remote import (
    STORED_AS_IS,
    Digest,
    FetchError,
    Listing,
    RemoteFile,
)
from penstock_worker.fetch.retry import refuse_transient, retry
from penstock_worker.fetch.selection import Select, selected

XML_ERRORS = (ElementTree.ParseError, ValueError, LookupError)
"""What parsing raises: the latter two for encodings that XML may name and Python cannot read."""
SIZE = re.compile(r"[0-9]{1,18}")


class Store(Protocol):
    """What differs between those who keep buckets."""

    @property
    def name(self) -> str:
        """Return the bucket's URI."""
        ...

    @property
    def url(self) -> str:
        """Return where the bucket answers."""
        ...

    @property
    def auth(self) -> httpx.Auth | None:
        """Return what authorizes requests to it."""
        ...

    @property
    def asks(self) -> Mapping[str, str]:
        """Return headers that ask for all it knows of an object."""
        ...

    def digest(self, headers: httpx.Headers) -> Digest | None:
        """Return the best digest that it has of an object.

        Raises:
            FetchError: the object is not served as it was uploaded.
        """
        ...

    def condition(self, headers: httpx.Headers) -> dict[str, str]:
        """Return headers by which only this version of an object is served."""
        ...

    def denial(self, code: str, response: httpx.Response) -> str:
        """Return what a refusal means that only this store explains; else nothing."""
        ...


class Bucket:
    """The files under one prefix of a bucket."""

    def __init__(self, store: Store, prefix: str, select: Select = selected) -> None:
        self._store = store
        self._select = select
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.client = httpx.Client(auth=store.auth, timeout=httpx.Timeout(30.0))

    def listing(self) -> Listing:
        """Return the files directly under the prefix."""
        sizes = self._sizes()
        if not sizes:
            raise FetchError(f"{self._store.name}/{self._prefix} holds nothing: correct its uri")
        files = tuple(self._file(name, sizes[name]) for name in self._select(sizes))
        text = "\n".join(f"{f.name} {f.size} {' '.join(f.headers.values())}" for f in files)
        return Listing(hashlib.sha256(text.encode()).hexdigest(), files)

    def explain(self, response: httpx.Response) -> str:
        """Return what a refusal by the bucket means."""
        name, status = self._store.name, response.status_code
        code = error_code(response)
        if denial := self._store.denial(code, response):
            return f"{name} {denial}"
        if status == 404:
            return f"{name} does not exist: correct its uri"
        if status == 412:
            return f"{name} changed while it was fetched"
        return f"{name}: {response.url.host} answered {status} {code}".rstrip()

    def _sizes(self) -> dict[str, str]:
        """Return the sizes of all names under the prefix, which are relative to it, as text."""
        sizes: dict[str, str] = {}
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            root = self._page(query)
            for found in root.iterfind("{*}Contents"):
                key = found.findtext("{*}Key") or ""
                name = key.removeprefix(self._prefix)
                if name and key.startswith(self._prefix) and not key.endswith("/"):
                    sizes[name] = found.findtext("{*}Size") or ""
            token = root.findtext("{*}NextContinuationToken")
            if root.findtext("{*}IsTruncated") == "true" and not token:
                raise self._speaks_otherwise("a listing goes on, and does not say where")
            if not token:
                return sizes
            if token == query.get("continuation-token"):
                raise self._speaks_otherwise("a listing goes on where it was")
            query["continuation-token"] = token

    def _page(self, query: dict[str, str]) -> ElementTree.Element:
        page = self._ask("GET", f"{self._store.url}/?{_encoded(query)}").content
        try:
            root = ElementTree.fromstring(page)  # noqa: S314 - expat bounds entities
        except XML_ERRORS as error:
            raise self._speaks_otherwise(str(error)) from error
        if root.tag.rpartition("}")[2] != "ListBucketResult":
            raise self._speaks_otherwise(f"a listing is {root.tag!r}")
        return root

    def _speaks_otherwise(self, what: str) -> FetchError:
        return FetchError(f"{self._store.url} does not answer as S3: {what}")

    def _file(self, name: str, listed: str) -> RemoteFile:
        url = f"{self._store.url}/{quote(self._prefix + name)}"
        # Asked for what is stored: a server may compress on the way, and then knows no length.
        asks = {"Accept-Encoding": "identity", **self._store.asks}
        found = self._ask("HEAD", url, asks).headers
        size = found.get("content-length") or listed
        try:
            if found.get("content-encoding", "").lower() not in STORED_AS_IS:
                raise FetchError("is stored compressed: upload it without a Content-Encoding")
            if not SIZE.fullmatch(size):
                raise FetchError("has no size: neither the listing nor HEAD tells one")
            digest = self._store.digest(found)
        except FetchError as error:
            raise FetchError(f"{self._store.name}/{self._prefix}{name} {error}") from error
        return RemoteFile(name, int(size), url, digest, self._store.condition(found))

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        def attempt() -> httpx.Response:
            response = self.client.request(method, url, headers=headers)
            refuse_transient(response)
            if response.status_code != 200:
                raise FetchError(self.explain(response))
            return response

        return retry(attempt, time.sleep, lambda: 0)


def error_code(response: httpx.Response) -> str:
    """Return the code in the body of a refusal; nothing where there is none, as after HEAD."""
    found = re.search(r"<Code>(\w+)</Code>", response.text)
    return found[1] if found else ""


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value, safe='-_.~')}" for key, value in query.items())
