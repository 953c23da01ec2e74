"""`gs://bucket/prefix`: models in Google Cloud Storage, through its XML API.

A bucket is asked as nobody first, which is enough for a public one and works anywhere; whoever the
metadata server knows asks when that is refused.

Source: "XML API overview", "HTTP headers and query string parameters for XML API", and
"Transcoding of gzip-compressed files", Cloud Storage documentation.
"""

from collections.abc import Mapping

import httpx

from penstock_worker.fetch.metadata_server import MetadataServer
from penstock_worker.fetch.remote import Digest, FetchError
from penstock_worker.fetch.renewal import Authorized, Lent, Renewed

ENDPOINT = "https://storage.googleapis.com"
NOBODY = ""


class CloudStorage:
    """A bucket of Cloud Storage."""

    def __init__(self, bucket: str, environment: Mapping[str, str]) -> None:
        self.name = f"gs://{bucket}"
        self.asks: Mapping[str, str] = {}
        # What Google's own libraries call another endpoint than the public one.
        endpoint = environment.get("STORAGE_EMULATOR_HOST") or ENDPOINT
        self.url = f"{endpoint.rstrip('/')}/{bucket}"
        token = Renewed(MetadataServer(environment).token, Lent(NOBODY))
        self.auth = Authorized(token, _bear, lambda refusal: refusal.status_code in (401, 403))

    def digest(self, headers: httpx.Headers) -> Digest | None:
        """Return the MD5, or what there is of an object that was uploaded in parts: CRC-32C."""
        if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
            raise FetchError("is stored compressed: upload it without a Content-Encoding")
        parts = (one.strip().partition("=") for one in headers.get("x-goog-hash", "").split(","))
        hashes = {name: value for name, _, value in parts}
        md5 = Digest.of_base64("md5", hashes.get("md5", ""))
        return md5 or Digest.of_base64("crc32c", hashes.get("crc32c", ""))

    def condition(self, headers: httpx.Headers) -> dict[str, str]:
        """Return the generation as condition."""
        generation = headers.get("x-goog-generation", "")
        return {"x-goog-if-generation-match": generation} if generation else {}

    def denial(self, code: str, response: httpx.Response) -> str:
        """Return what to do about missing rights."""
        if response.status_code not in (401, 403):
            return ""
        return (
            "is closed to whom the metadata server knows: give the ServiceAccount of "
            "spec.model.serviceAccountName the role roles/storage.objectViewer there "
            f"({code or response.status_code})"
        )


def _bear(request: httpx.Request, token: str) -> None:
    if token != NOBODY:
        request.headers["Authorization"] = f"Bearer {token}"
