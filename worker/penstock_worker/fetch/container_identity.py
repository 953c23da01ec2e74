"""A role of AWS for a pod or a task, from an agent on the node: EKS Pod Identity, and ECS.

Source: "Container credential provider", AWS SDKs and Tools reference guide.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import httpx

from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.renewal import Lent, moment
from penstock_worker.fetch.retry import TRANSIENT, Transient
from penstock_worker.fetch.signature import Credentials
from penstock_worker.fetch.web_identity import read_token

RELATIVE = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
FULL = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE = f"{TOKEN}_FILE"
ECS = "169.254.170.2"
EKS = ("169.254.170.23", "fd00:ec2::23")


class ContainerIdentity:
    """An agent that has credentials for whoever runs here.

    Raises:
        FetchError: it is not where one can be trusted to be.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._url = agent(environment)

    def credentials(self) -> Lent[Credentials]:
        """Return temporary credentials.

        Raises:
            FetchError: they are refused.
            Transient: the agent may give them the next time.
        """
        token = self._token()
        headers = {"Authorization": token} if token else {}
        try:
            # An agent on the node is never behind a proxy.
            response = httpx.get(
                self._url, headers=headers, timeout=10.0, trust_env=self._url.scheme == "https"
            )
        except httpx.TransportError as error:
            raise Transient(f"the agent at {self._url} does not answer: {error}") from error
        if response.status_code in TRANSIENT:
            raise Transient(f"the agent at {self._url} answered {response.status_code}")
        if response.status_code != 200:
            raise FetchError(
                f"{self._url} gives no credentials: associate a role with the ServiceAccount "
                f"({response.status_code}: {' '.join(response.text[:200].split())})"
            )
        return _lent(response)

    def _token(self) -> str:
        path = self._environment.get(TOKEN_FILE)
        token = read_token(Path(path), TOKEN_FILE) if path else self._environment.get(TOKEN, "")
        if "\n" in token or "\r" in token:
            raise FetchError(f"{TOKEN_FILE if path else TOKEN} must hold one line")
        return token


def agent(environment: Mapping[str, str]) -> httpx.URL:
    """Return where the agent is.

    Raises:
        FetchError: whoever is between could read the credentials.
    """
    if relative := environment.get(RELATIVE):
        return httpx.URL(f"http://{ECS}/{relative.lstrip('/')}")
    text = environment[FULL]
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise FetchError(f"{FULL}: {text} is no URL: {error}") from error
    if url.scheme == "https" or (url.scheme == "http" and _on_this_node(url.host)):
        return url
    raise FetchError(
        f"{FULL}: {text} is not asked: it must be https://, or http:// at a loopback address, "
        f"{ECS} or {' or '.join(EKS)}"
    )


def _on_this_node(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address in map(ip_address, (ECS, *EKS))


def _lent(response: httpx.Response) -> Lent[Credentials]:
    try:
        found = response.json()
        until = found.get("Expiration")
        return Lent(
            Credentials(found["AccessKeyId"], found["SecretAccessKey"], found.get("Token") or ""),
            moment(until) if until else None,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FetchError(f"{response.url} does not answer with credentials: {error!r}") from error
