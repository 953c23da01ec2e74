"""`s3://bucket/prefix`: models in Amazon S3, or in anything that speaks its protocol.

Three requests are all that is needed (list, head, get), so they are made and signed here; botocore
wants an older python-dateutil than Kubernetes' client does, and the two share a lock.
"""

import base64
import hashlib
import re
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree import ElementTree

import httpx

from penstock_worker.fetch.patience import patiently, refuse_transient
from penstock_worker.fetch.remote import Digest, FetchError, Listing, RemoteFile
from penstock_worker.fetch.selection import Select, selected
from penstock_worker.fetch.signature import Credentials, signed

MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class Bucket:
    """The files under one prefix of a bucket."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        region: str = "us-east-1",
        credentials: Credentials | None = None,
        endpoint: str = "",
        select: Select = selected,
    ) -> None:
        self._bucket = bucket
        self._select = select
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._region = region
        self._credentials = credentials
        self._base = _base(bucket, region, endpoint)
        self.client = httpx.Client(
            auth=_Signer(credentials, region) if credentials else None,
            timeout=httpx.Timeout(30.0),
        )

    def listing(self) -> Listing:
        """Return the files directly under the prefix."""
        names = self._names()
        if not names:
            where = f"s3://{self._bucket}/{self._prefix}"
            raise FetchError(f"{where} holds nothing: correct its uri")
        files = tuple(self._file(name) for name in self._select(names))
        text = "\n".join(f"{f.name} {f.size} {f.headers.get('If-Match')}" for f in files)
        return Listing(hashlib.sha256(text.encode()).hexdigest(), files)

    def explain(self, response: httpx.Response) -> str:
        """Return what a refusal by the bucket means."""
        name, status = f"s3://{self._bucket}", response.status_code
        region = response.headers.get("x-amz-bucket-region", self._region)
        if region != self._region:
            return f"{name} is in {region}: add AWS_REGION={region} to the Secret"
        if status in (401, 403) and self._credentials is None:
            return (
                f"{name} is not public: name a Secret with the keys AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in spec.model.secretRef"
            )
        if status in (401, 403):
            return f"{name}: the access key may not list and get s3://{self._bucket}/{self._prefix}"
        if status == 404:
            return f"{name} does not exist: correct its uri"
        if status == 412:
            return f"{name} changed while it was fetched"
        return f"{name}: {response.url.host} answered {status}"

    def _names(self) -> list[str]:
        """Return all names under the prefix, relative to it."""
        names: list[str] = []
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            page = self._ask("GET", f"{self._base}/?{_encoded(query)}").content
            try:
                root = ElementTree.fromstring(page)  # noqa: S314 - expat bounds entities
            except ElementTree.ParseError as error:
                raise FetchError(f"{self._base} does not answer as S3: {error}") from error
            keys = [found.text or "" for found in root.iterfind("{*}Contents/{*}Key")]
            names += [key.removeprefix(self._prefix) for key in keys]
            token = root.findtext("{*}NextContinuationToken")
            if not token:
                return [name for name in names if name and not name.endswith("/")]
            query["continuation-token"] = token

    def _file(self, name: str) -> RemoteFile:
        url = f"{self._base}/{quote(self._prefix + name)}"
        found = self._ask("HEAD", url, {"x-amz-checksum-mode": "ENABLED"}).headers
        etag = found.get("etag", "")
        return RemoteFile(
            name,
            int(found["content-length"]),
            url,
            _digest(found),
            {"If-Match": etag} if etag else {},
        )

    def _ask(self, method: str, url: str, headers: dict[str, str] | None = None) -> httpx.Response:
        def attempt() -> httpx.Response:
            response = self.client.request(method, url, headers=headers)
            refuse_transient(response)
            if response.status_code != 200:
                raise FetchError(self.explain(response))
            return response

        return patiently(attempt, time.sleep, lambda: 0)


class _Signer(httpx.Auth):
    """Signs every request at the moment that it is sent."""

    def __init__(
        self,
        credentials: Credentials,
        region: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the signature."""
        ours = {k: v for k, v in request.headers.items() if k == "host" or k.startswith("x-amz-")}
        request.headers.update(
            signed(
                request.method, str(request.url), ours, self._credentials, self._region,
                self._clock(),
            )
        )  # fmt: skip
        yield request


def _base(bucket: str, region: str, endpoint: str) -> str:
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    if "." in bucket:  # no certificate covers such a host name
        return f"https://s3.{region}.amazonaws.com/{bucket}"
    return f"https://{bucket}.s3.{region}.amazonaws.com"


def _encoded(query: dict[str, str]) -> str:
    return "&".join(f"{key}={quote(value, safe='-_.~')}" for key, value in query.items())


def _digest(headers: httpx.Headers) -> Digest | None:
    """Return the best digest that S3 has; of files uploaded in parts it may have none."""
    whole = headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT"
    checksum = headers.get("x-amz-checksum-sha256", "")
    if checksum and whole and "-" not in checksum:
        return Digest("sha256", base64.b64decode(checksum).hex())
    encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    etag = MD5.fullmatch(headers.get("etag", ""))
    if etag and not encrypted and "x-amz-server-side-encryption-customer-algorithm" not in headers:
        return Digest("md5", etag[1])
    return None
