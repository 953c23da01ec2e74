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

from penstock_worker.fetch.remote import Digest, FetchError, Listing, RemoteFile
from penstock_worker.fetch.retry import refuse_transient, retry
from penstock_worker.fetch.selection import Select, selected


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
        names = self._names()
        if not names:
            raise FetchError(f"{self._store.name}/{self._prefix} holds nothing: correct its uri")
        files = tuple(self._file(name) for name in self._select(names))
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

    def _names(self) -> list[str]:
        """Return all names under the prefix, relative to it."""
        names: list[str] = []
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            page = self._ask("GET", f"{self._store.url}/?{_encoded(query)}").content
            try:
                root = ElementTree.fromstring(page)  # noqa: S314 - expat bounds entities
            except ElementTree.ParseError as error:
                raise FetchError(f"{self._store.url} does not answer as S3: {error}") from error
            keys = [found.text or "" for found in root.iterfind("{*}Contents/{*}Key")]
            names += [key.removeprefix(self._prefix) for key in keys]
            token = root.findtext("{*}NextContinuationToken")
            if not token:
                return [name for name in names if name and not name.endswith("/")]
            query["continuation-token"] = token

    def _file(self, name: str) -> RemoteFile:
        url = f"{self._store.url}/{quote(self._prefix + name)}"
        found = self._ask("HEAD", url, self._store.asks).headers
        try:
            digest = self._store.digest(found)
        except FetchError as error:
            raise FetchError(f"{self._store.name}/{self._prefix}{name} {error}") from error
        return RemoteFile(
            name, int(found["content-length"]), url, digest, self._store.condition(found)
        )

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
