"""`s3://bucket/prefix`: models in Amazon S3, or in anything that speaks its protocol."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from penstock_worker.fetch.bucket import error_code
from penstock_worker.fetch.credentials import Identity, identity
from penstock_worker.fetch.remote import Digest
from penstock_worker.fetch.renewal import Authorized
from penstock_worker.fetch.signature import Credentials, amazon, signed

MD5 = re.compile(r'"?([0-9a-f]{32})"?')
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})


class S3:
    """A bucket of S3."""

    def __init__(self, bucket: str, environment: Mapping[str, str]) -> None:
        self.name = f"s3://{bucket}"
        self.asks = {"x-amz-checksum-mode": "ENABLED"}
        self._region = (
            environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
        )
        endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
        self.url = _url(bucket, self._region, endpoint or "")
        self._identity = identity(environment, self._region)
        self.auth = _authorization(self._identity, self._region)

    def digest(self, headers: httpx.Headers) -> Digest | None:
        """Return the best digest that S3 has; of files uploaded in parts it may have none."""
        whole = headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT"
        checksum = headers.get("x-amz-checksum-sha256", "")
        if whole and (sha256 := Digest.of_base64("sha256", checksum)):
            return sha256
        encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
        customer = "x-amz-server-side-encryption-customer-algorithm" in headers
        etag = MD5.fullmatch(headers.get("etag", ""))
        return Digest("md5", etag[1]) if etag and not encrypted and not customer else None

    def condition(self, headers: httpx.Headers) -> dict[str, str]:
        """Return the ETag as condition."""
        etag = headers.get("etag", "")
        return {"If-Match": etag} if etag else {}

    def denial(self, code: str, response: httpx.Response) -> str:
        """Return what to do about a wrong region, or missing rights."""
        region = response.headers.get("x-amz-bucket-region", self._region)
        if region != self._region:
            return (
                f"is in {region}: set AWS_REGION={region}, in the Secret or in template.env of the "
                "pools"
            )
        if code in EXPIRED:
            who = self._identity.name if self._identity else "whoever asks"
            return f"is closed to {who}: its credentials have expired, give new ones ({code})"
        if response.status_code not in (401, 403):
            return ""
        if self._identity is None:
            return (
                "is not public: name a Secret with the keys AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in spec.model.secretRef, or a ServiceAccount with a role "
                "in spec.model.serviceAccountName"
            )
        return (
            f"is closed to {self._identity.name}: allow it s3:ListBucket and s3:GetObject "
            f"({code or response.status_code})"
        )


def _authorization(who: Identity | None, region: str) -> httpx.Auth | None:
    """Return what signs every request at the moment that it is sent."""
    if who is None:
        return None

    def sign(request: httpx.Request, credentials: Credentials) -> None:
        ours = {k: v for k, v in request.headers.items() if k in ("host", "x-amz-checksum-mode")}
        now = datetime.now(UTC)
        request.headers.update(
            signed(request.method, str(request.url), ours, credentials, region, now)
        )

    return Authorized(who.credentials, sign, _expired)


def _expired(response: httpx.Response) -> bool:
    """Return whether other credentials may help; the answer to HEAD does not say what is wrong."""
    silent = response.request.method == "HEAD" and response.status_code in (400, 403)
    return silent or error_code(response) in EXPIRED


def _url(bucket: str, region: str, endpoint: str) -> str:
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    if "." in bucket:  # no certificate covers such a host name
        return f"https://s3.{region}.{amazon(region)}/{bucket}"
    return f"https://{bucket}.s3.{region}.{amazon(region)}"
