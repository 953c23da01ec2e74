"""A real HTTP server that issues credentials as AWS's STS, an agent on a node, and Google Cloud's
metadata server do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

from http_threads import QuietHandler, serving_with

METADATA = "/computeMetadata/v1/instance/service-accounts/default/token"
STS = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass
class Issuer:
    """Credentials with numbers: `key-1`, then `key-2`."""

    lasts: timedelta = timedelta(hours=1)
    issued: int = 0
    valid: set[str] = field(default_factory=set)
    """Keys, or tokens of Google Cloud, that a bucket should accept."""
    refusals: list[tuple[int, str]] = field(default_factory=list)
    """Status and body of the next answers."""
    flavor: str = "Google"
    requests: list[tuple[str, dict[str, str], dict[str, list[str]]]] = field(default_factory=list)
    """Path, headers and form."""
    url: str = ""
    host: str = ""

    def expire(self) -> None:
        """Make all that was issued invalid."""
        self.valid.clear()

    def admits(self, headers: dict[str, str]) -> tuple[int, str]:
        """Return what S3 or Cloud Storage answer to headers: a status, and a code."""
        said = headers.get("authorization", "")
        if not said:
            return 403, "AccessDenied"
        if said.startswith("Bearer "):
            return (200, "") if said.removeprefix("Bearer ") in self.valid else (401, "Expired")
        key = said.partition("Credential=")[2].partition("/")[0]
        if headers.get("x-amz-security-token") != f"session of {key}":
            return 403, "InvalidToken"
        return (200, "") if key in self.valid else (400, "ExpiredToken")


@contextmanager
def serve_issuer(issuer: Issuer) -> Iterator[Issuer]:
    """Serve until the block ends."""
    with serving_with(_Handler, issuer=issuer) as port:
        issuer.host = f"127.0.0.1:{port}"
        issuer.url = f"http://{issuer.host}"
        yield issuer


class _Handler(QuietHandler):
    issuer: Issuer

    def do_GET(self) -> None:  # noqa: N802
        self._answer({})

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(parse_qs(body.decode()))

    def _answer(self, form: dict[str, list[str]]) -> None:
        issuer = self.issuer
        issuer.requests.append((self.path, self.asked, form))
        if issuer.refusals:
            self._send(*issuer.refusals.pop(0))
            return
        issuer.issued += 1
        key = f"key-{issuer.issued}"
        issuer.valid = {*issuer.valid, key}
        until = (datetime.now(UTC) + issuer.lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
        if form:
            self._send(200, _sts(key, until))
        elif self.path == METADATA:
            lasts = issuer.lasts.total_seconds()
            token = {"access_token": key, "expires_in": int(lasts), "token_type": "Bearer"}
            self._send(200, json.dumps(token))
        else:
            self._send(200, json.dumps(_agent(key, until)))

    def _send(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Metadata-Flavor", self.issuer.flavor)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


def _sts(key: str, until: str) -> str:
    return (
        f'<AssumeRoleWithWebIdentityResponse xmlns="{STS}"><AssumeRoleWithWebIdentityResult>'
        f"<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
        f"<SessionToken>session of {key}</SessionToken><Expiration>{until}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )


def _agent(key: str, until: str) -> dict[str, str]:
    return {
        "AccessKeyId": key,
        "SecretAccessKey": "secret",
        "Token": f"session of {key}",
        "Expiration": until,
    }
