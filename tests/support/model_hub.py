"""A real HTTP server that behaves like the Hugging Face Hub, and like S3 or Cloud Storage, faults
included."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from http_threads import QuietHandler, serving_with

COMMIT = "c" * 40
LARGE = ".safetensors"
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}" * 500,
    "model.safetensors": bytes(range(256)) * 2000,
}


@dataclass
class Remote:
    """What is served, and what goes wrong on purpose."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(MODEL))
    commit: str = COMMIT
    token: str = ""
    """Needed where it is not empty."""
    cut_after: list[int] = field(default_factory=list)
    """Bytes of a body after which the next connections are cut."""
    damaged: list[str] = field(default_factory=list)
    """Files whose next answer has a wrong byte."""
    failures: list[int] = field(default_factory=list)
    """Statuses that the next requests get."""
    heeds_ranges: bool = True
    page: int = 1000
    """Keys in one answer of S3."""
    admits: Callable[[dict[str, str]], tuple[int, str]] = lambda headers: (200, "")
    """Status and error code that a bucket's request gets for its headers."""
    google: bool = False
    """Whether the bucket is one of Cloud Storage."""
    composite: list[str] = field(default_factory=list)
    """Objects of Cloud Storage that were uploaded in parts, so that it has no MD5 of them."""
    compressed: list[str] = field(default_factory=list)
    """Objects of Cloud Storage that were uploaded with `Content-Encoding: gzip`."""
    generation: int = 7
    tells_length: bool = True
    """Whether the answer to HEAD has a length."""
    lists_sizes: bool = True
    encoding: str = ""
    """The `Content-Encoding` of objects."""
    shifts_ranges: list[int] = field(default_factory=list)
    """Bytes by which the next ranges begin too late."""
    loses_token: bool = False
    """A listing that goes on does not say where."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers."""
    url: str = ""
    other: str = ""
    """The same server under another name: where large files are."""

    def asked(self, path: str) -> list[dict[str, str]]:
        """Return the headers of the requests for a path."""
        return [headers for _, asked, headers in self.requests if asked.endswith(path)]


@contextmanager
def serve(remote: Remote) -> Iterator[Remote]:
    """Serve until the block ends."""
    with serving_with(_Handler, remote=remote) as port:
        remote.url = f"http://127.0.0.1:{port}"
        remote.other = f"http://localhost:{port}"
        yield remote


class _Handler(QuietHandler):
    remote: Remote

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        remote, parts = self.remote, urlsplit(self.path)
        path = unquote(parts.path)
        headers = self.asked
        remote.requests.append((self.command, path, headers))
        if remote.failures:
            self._send(remote.failures.pop(0))
        elif path.startswith("/api/models/org/model/revision/"):
            self._hub_listing(path.rsplit("/", 1)[1])
        elif path.startswith("/api/models/"):
            self._send(401, headers={"X-Error-Code": "RepoNotFound"})
        elif path.startswith(f"/org/model/resolve/{remote.commit}/"):
            self._hub_file(path.removeprefix(f"/org/model/resolve/{remote.commit}/"))
        elif path.startswith("/cdn/"):
            self._body(path.rsplit("/", 1)[1])
        elif path.startswith("/bucket/"):
            self._bucket(path.removeprefix("/bucket/"), parse_qs(parts.query), headers)
        else:
            self._send(404)

    def _bucket(self, key: str, query: dict[str, list[str]], headers: dict[str, str]) -> None:
        status, code = self.remote.admits(headers)
        if status != 200:
            self._send(status, f"<Error><Code>{code}</Code></Error>".encode())
        elif not key:
            self._bucket_listing(query)
        elif key.startswith("models/small/"):
            self._object(key.rsplit("/", 1)[1])
        else:
            self._send(404)

    def _hub_listing(self, revision: str) -> None:
        remote = self.remote
        if remote.token and self.headers.get("Authorization") != f"Bearer {remote.token}":
            self._send(401, headers={"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", remote.commit):
            self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [_sibling(name, content) for name, content in remote.files.items()]
            about = {"id": "org/model", "private": False, "downloads": 0, "likes": 0, "tags": []}
            self._send_json({**about, "sha": remote.commit, "siblings": siblings})

    def _hub_file(self, name: str) -> None:
        if name.endswith(LARGE):
            self._send(302, headers={"Location": f"{self.remote.other}/cdn/{name}"})
        else:
            self._body(name)

    def _bucket_listing(self, query: dict[str, list[str]]) -> None:
        prefix = query["prefix"][0]
        keys = [f"models/small/{name}" for name in sorted(self.remote.files)]
        keys = [key for key in keys if key.startswith(prefix)]
        start = int(query.get("continuation-token", ["0"])[0])
        page, rest = keys[start : start + self.remote.page], keys[start + self.remote.page :]
        token = "" if self.remote.loses_token else str(start + len(page))
        more = "<IsTruncated>true</IsTruncated>" if rest else ""
        more += f"<NextContinuationToken>{token}</NextContinuationToken>" if rest and token else ""
        contents = "".join(self._listed(key) for key in page)
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        xml = f"<ListBucketResult {space}>{contents}{more}</ListBucketResult>"
        self._send(200, xml.encode())

    def _listed(self, key: str) -> str:
        size = len(self.remote.files[key.rsplit("/", 1)[1]])
        told = f"<Size>{size}</Size>" if self.remote.lists_sizes else ""
        return f"<Contents><Key>{key}</Key>{told}</Contents>"

    def _object(self, name: str) -> None:
        condition, version, about = self._version(name)
        if self.remote.encoding:
            about["Content-Encoding"] = self.remote.encoding
        if self.headers.get(condition, version) != version:
            self._send(412)
        elif self.command == "HEAD":
            self._send(200, self.remote.files[name], about)
        else:
            self._body(name, about)

    def _version(self, name: str) -> tuple[str, str, dict[str, str]]:
        """Return the header of a condition, what it must be, and what is told of an object."""
        remote, content = self.remote, self.remote.files[name]
        md5 = hashlib.md5(content)  # noqa: S324
        if not remote.google:
            etag = f'"{md5.hexdigest()}"'
            return "If-Match", etag, {"ETag": etag}
        hashes = f"crc32c={base64.b64encode(crc32c(content)).decode()}"
        if name not in remote.composite:
            hashes += f",md5={base64.b64encode(md5.digest()).decode()}"
        about = {
            "x-goog-generation": str(remote.generation),
            "x-goog-hash": hashes,
            "x-goog-stored-content-encoding": "gzip" if name in remote.compressed else "identity",
        }
        return "x-goog-if-generation-match", str(remote.generation), about

    def _body(self, name: str, headers: dict[str, str] | None = None) -> None:
        remote = self.remote
        content, status, headers = remote.files[name], 200, headers or {}
        if name in remote.damaged:
            remote.damaged.remove(name)
            content = b"\xff" + content[1:]
        wanted = self.headers.get("Range")
        if wanted and remote.heeds_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            start += remote.shifts_ranges.pop(0) if remote.shifts_ranges else 0
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._send(status, content, headers, cut=True)

    def _send_json(self, content: object) -> None:
        import json

        self._send(200, json.dumps(content).encode())

    def _send(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *,
        cut: bool = False,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.command != "HEAD" or self.remote.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and self.remote.cut_after and len(body) > self.remote.cut_after[0]:
            self.wfile.write(body[: self.remote.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)


@cache
def crc32c(content: bytes) -> bytes:
    """Return the CRC-32C of bytes as its definition has it, bit by bit."""
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return (register ^ 0xFFFFFFFF).to_bytes(4)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324
    found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return found
