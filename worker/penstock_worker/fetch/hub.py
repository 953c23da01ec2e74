"""`hf://org/name`: models on the Hugging Face Hub, or on anything that speaks its API.

A branch or tag is resolved to its commit once, and every file is taken from that commit. Large
files are verified by the SHA-256 that the Hub publishes for them, small ones by their git blob id.
"""

import time
from typing import Any
from urllib.parse import quote

import httpx

from penstock_worker.fetch.remote import Digest, FetchError, Listing, RemoteFile
from penstock_worker.fetch.retry import refuse_transient, retry
from penstock_worker.fetch.selection import Select, selected

ENDPOINT = "https://huggingface.co"


class Hub:
    """One model on the Hub, at one revision."""

    def __init__(
        self,
        repository: str,
        revision: str,
        *,
        token: str = "",
        endpoint: str = ENDPOINT,
        select: Select = selected,
    ) -> None:
        self._repository = repository
        self._select = select
        self._revision = revision
        self._token = token
        self._endpoint = endpoint.rstrip("/")
        # httpx takes the token off before it follows a redirect to another host.
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            follow_redirects=True,
            timeout=httpx.Timeout(30.0),
        )

    def listing(self) -> Listing:
        """Return the files of the model at its revision."""
        path = f"api/models/{quote(self._repository)}/revision/{quote(self._revision, safe='')}"
        try:
            found = retry(lambda: self._get(f"{self._endpoint}/{path}"), time.sleep, lambda: 0)
            commit = str(found["sha"])
            entries = {str(entry["rfilename"]): entry for entry in found["siblings"]}
            files = [self._file(entries[name], name, commit) for name in self._select(entries)]
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FetchError(
                f"{self._endpoint} does not answer as a model hub: {error!r}"
            ) from error
        return Listing(commit, tuple(files))

    def explain(self, response: httpx.Response) -> str:
        """Return what a refusal by the Hub means."""
        name = f"hf://{self._repository}"
        code, status = response.headers.get("x-error-code", ""), response.status_code
        if code == "GatedRepo":
            page = f"{self._endpoint}/{self._repository}"
            if self._token:
                return f"{name} is gated and HF_TOKEN has no access: accept its terms at {page}"
            return f"{name} is gated: accept its terms at {page}, and {_GIVE_TOKEN}"
        if code == "RevisionNotFound":
            return f"{name} has no revision {self._revision!r}: correct its revision"
        if status in (401, 403) and self._token:
            return f"{name} does not exist, or HF_TOKEN has no access to it"
        if status in (401, 403):
            return f"{name} does not exist, or is private: correct its uri, or {_GIVE_TOKEN}"
        if status == 404:
            return f"{name} does not exist: correct its uri"
        return f"{name}: {response.url.host} answered {status}"

    def _get(self, url: str) -> Any:
        response = self.client.get(url, params={"blobs": "true"})
        refuse_transient(response)
        if response.status_code != 200:
            raise FetchError(self.explain(response))
        return response.json()

    def _file(self, entry: dict[str, Any], name: str, commit: str) -> RemoteFile:
        large = entry.get("lfs")
        size = int(entry["size"])
        if size < 0:
            raise ValueError(f"{name} has {size} bytes")
        digest = Digest("sha256", large["sha256"]) if large else Digest("git", entry["blobId"])
        url = f"{self._endpoint}/{quote(self._repository)}/resolve/{commit}/{quote(name)}"
        return RemoteFile(name, size, url, digest)


_GIVE_TOKEN = "name a Secret with the key HF_TOKEN in spec.model.secretRef"  # noqa: S105
