"""Who asks Amazon S3: the order in which AWS's SDKs look for credentials, as far as pods need it.

Keys, then a web identity, then an agent on the node. A machine's own role (IMDS) is left out: in a
cluster it is the node's, and not of whoever runs there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock_worker.fetch.container_identity import FULL, RELATIVE, ContainerIdentity
from penstock_worker.fetch.renewal import Lent, Renewed
from penstock_worker.fetch.signature import Credentials
from penstock_worker.fetch.web_identity import TOKEN_FILE, WebIdentity


@dataclass(frozen=True)
class Identity:
    """Somebody whom S3 may know."""

    name: str
    """For a refusal."""
    credentials: Renewed[Credentials]


def identity(environment: Mapping[str, str], region: str) -> Identity | None:
    """Return who asks; None: nobody in particular, which is enough for a public bucket.

    Raises:
        FetchError: the environment names somebody in a way that cannot be used.
    """
    key, secret = (
        environment.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    if key and secret:
        keys = Lent(Credentials(key, secret, environment.get("AWS_SESSION_TOKEN", "")))
        return Identity("the access key", Renewed(lambda: keys))
    role = environment.get("AWS_ROLE_ARN", "")
    if role and environment.get(TOKEN_FILE):
        return Identity(f"the role {role}", Renewed(WebIdentity(environment, region).credentials))
    if environment.get(RELATIVE) or environment.get(FULL):
        agent = ContainerIdentity(environment)
        return Identity("the ServiceAccount's role", Renewed(agent.credentials))
    return None
