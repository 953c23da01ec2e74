"""AWS Signature Version 4 for requests without a body. Pure.

Source: "Signature Calculations for the Authorization Header", Amazon S3 API reference; its worked
examples are the tests.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl, quote, unquote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Credentials:
    """An access key."""

    key: str
    secret: str
    session: str = ""
    """Token of temporary credentials."""


def amazon(region: str) -> str:
    """Return the domain of a region's services."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def signed(
    method: str,
    url: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    moment: datetime,
) -> dict[str, str]:
    """Return the headers that sign a request to S3.

    Args:
        method: GET or HEAD.
        url: with its query.
        headers: those to sign beside the host's, which must include it.
        credentials: who asks.
        region: of the bucket.
        moment: now, in UTC; the server refuses one that is minutes away.
    """
    parts = urlsplit(url)
    stamp = moment.strftime("%Y%m%dT%H%M%SZ")
    added = {"x-amz-content-sha256": EMPTY, "x-amz-date": stamp}
    if credentials.session:
        added["x-amz-security-token"] = credentials.session
    everything = {k.lower(): " ".join(v.split()) for k, v in {**headers, **added}.items()}
    names = sorted(everything)
    canonical = "\n".join(
        (
            method,
            quote(unquote(parts.path or "/"), safe="/-_.~"),
            _query(parts.query),
            *(f"{name}:{everything[name]}" for name in names),
            "",
            ";".join(names),
            EMPTY,
        )
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{credentials.secret}".encode()
    for part in (stamp[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key}/{scope},"
        f"SignedHeaders={';'.join(names)},Signature={signature}"
    )
    return added


def _query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in pairs)
    return "&".join(f"{key}={value}" for key, value in encoded)
