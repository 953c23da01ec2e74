"""Who may see the status page: anyone in open mode, else tenants with `debug`."""

import base64
import binascii

from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.tenants.tenancy import Tenancy, UnknownKey, sent_key


def allow(tenancy: Tenancy, authorization: str | None) -> None:
    """Return if the caller may see the page.

    Raises:
        ApiError: it may not.
    """
    try:
        tenant = tenancy.identify(_password(authorization) or sent_key(authorization))
    except UnknownKey as error:
        raise UnknownKey(error.message, 'Basic realm="Penstock"') from error
    if not tenant.debug:
        raise ApiError(
            ErrorCode.PERMISSION_DENIED,
            "The status page is for tenants with `debug: true`.",
        )


def _password(authorization: str | None) -> str:
    """Return the key that a browser sends: the password of its dialogue, whatever the user name."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
