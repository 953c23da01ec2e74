"""A token for Google Cloud: from the metadata server that every node and pod there can ask.

With GKE's Workload Identity it is that of the pod's ServiceAccount.

Source: "About VM metadata" and "Access tokens", Compute Engine documentation.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import httpx

from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.renewal import Lent
from penstock_worker.fetch.retry import TRANSIENT, Transient

HOST = "metadata.google.internal"
PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
FLAVOR = {"Metadata-Flavor": "Google"}
"""Sent, so that no confused proxy gets a token, and in every answer."""


class MetadataServer:
    """The metadata server of this machine, or of this pod."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._host = environment.get("GCE_METADATA_HOST") or HOST

    def token(self) -> Lent[str]:
        """Return a bearer token.

        Raises:
            FetchError: there is none for whoever runs here.
            Transient: the server does not answer; in a new pod it may take some seconds.
        """
        try:
            response = httpx.get(
                f"http://{self._host}{PATH}", headers=FLAVOR, timeout=5.0, trust_env=False
            )
        except httpx.TransportError as error:
            raise Transient(
                f"the bucket is not public, and no metadata server answers at {self._host} with "
                "a token; outside of Google Cloud, use s3:// with HMAC keys and AWS_ENDPOINT_URL="
                f"https://storage.googleapis.com ({error})"
            ) from error
        if response.status_code in TRANSIENT:
            raise Transient(f"the metadata server {self._host} answered {response.status_code}")
        if response.headers.get("Metadata-Flavor") != "Google":
            raise FetchError(f"{self._host} is no metadata server: correct GCE_METADATA_HOST")
        if response.status_code != 200:
            raise FetchError(
                f"the metadata server {self._host} has no token: bind an identity to the "
                f"ServiceAccount ({response.status_code}: "
                f"{' '.join(response.text[:200].split())})"
            )
        return self._lent(response)

    def _lent(self, response: httpx.Response) -> Lent[str]:
        try:
            found = response.json()
            lasts = timedelta(seconds=float(found["expires_in"]))
            return Lent(str(found["access_token"]), datetime.now(UTC) + lasts)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise FetchError(f"{self._host} does not answer with a token: {error!r}") from error
