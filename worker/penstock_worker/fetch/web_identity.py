"""A role of AWS for a Kubernetes ServiceAccount ("IRSA"): its token is exchanged at STS.

EKS's webhook sets the variables and mounts the token into pods of an annotated ServiceAccount.

Source: AssumeRoleWithWebIdentity, AWS Security Token Service API reference; "AWS STS Regional
endpoints" and "Service-specific endpoints", AWS SDKs and Tools reference guide.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import httpx

from penstock_worker.fetch.remote import FetchError
from penstock_worker.fetch.renewal import Lent, moment
from penstock_worker.fetch.retry import TRANSIENT, Transient
from penstock_worker.fetch.signature import Credentials, amazon

TOKEN_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"  # noqa: S105 - the name of a variable
BUSY = frozenset({"IDPCommunicationError", "Throttling", "RequestLimitExceeded"})
"""Refusals that may be none the next time."""


class WebIdentity:
    """A role, and the token that proves who may assume it."""

    def __init__(self, environment: Mapping[str, str], region: str) -> None:
        self._role = environment["AWS_ROLE_ARN"]
        self._token = Path(environment[TOKEN_FILE])
        self._session = session_name(environment)
        self._endpoint = sts_endpoint(environment, region)

    def credentials(self) -> Lent[Credentials]:
        """Return temporary credentials of the role.

        Raises:
            FetchError: they are refused.
            Transient: STS may give them the next time.
        """
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": self._role,
            "RoleSessionName": self._session,
            "WebIdentityToken": read_token(self._token, TOKEN_FILE),
        }
        try:
            response = httpx.post(self._endpoint, data=form, timeout=10.0)
        except httpx.TransportError as error:
            raise Transient(f"STS at {self._endpoint} does not answer: {error}") from error
        if response.status_code != 200:
            raise self._refusal(response)
        return _lent(response)

    def _refusal(self, response: httpx.Response) -> Exception:
        code, words = (_said(response.text, name) for name in ("Code", "Message"))
        if response.status_code in TRANSIENT or code in BUSY:
            return Transient(f"STS at {self._endpoint} answered {response.status_code} {code}")
        advice = ""
        if code in ("AccessDenied", "InvalidIdentityToken"):
            advice = ": correct the role's trust policy, or the ServiceAccount's annotation"
        return FetchError(
            f"AWS_ROLE_ARN: STS refuses {self._role}{advice} ({code or response.status_code}: "
            f"{words})"
        )


def session_name(environment: Mapping[str, str]) -> str:
    """Return what CloudTrail calls this download: by default, with the pod's name."""
    name = environment.get("AWS_ROLE_SESSION_NAME") or (
        f"penstock-{environment.get('HOSTNAME') or 'fetch'}"
    )
    return re.sub(r"[^A-Za-z0-9_+=,.@-]", "-", name)[:64]


def sts_endpoint(environment: Mapping[str, str], region: str) -> str:
    """Return where STS is: as set, else in the region, or in one place for all if that is asked."""
    if told := environment.get("AWS_ENDPOINT_URL_STS") or environment.get("AWS_ENDPOINT_URL"):
        return told
    if environment.get("AWS_STS_REGIONAL_ENDPOINTS") == "legacy" and not region.startswith("cn-"):
        return "https://sts.amazonaws.com"
    return f"https://sts.{region}.{amazon(region)}"


def read_token(path: Path, variable: str) -> str:
    """Return a token that is replaced in its file before it ends.

    Raises:
        FetchError: it is not there.
    """
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FetchError(f"{variable}: cannot read {path}: {reason}") from error


def _lent(response: httpx.Response) -> Lent[Credentials]:
    try:
        root = ElementTree.fromstring(response.content)  # noqa: S314 - expat bounds entities
        found = root.find("{*}AssumeRoleWithWebIdentityResult/{*}Credentials")
        fields = {} if found is None else {one.tag.rpartition("}")[2]: one.text for one in found}
        key, secret, token, until = (
            fields[name] or ""
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        )
        return Lent(Credentials(key, secret, token), moment(until))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise FetchError(f"{response.url} does not answer as STS: {error!r}") from error


def _said(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", text)
    return " ".join(found[1].split()) if found else ""
