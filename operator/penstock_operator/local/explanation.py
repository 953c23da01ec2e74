"""`penstock explain`: what the autoscaler has written down about its last decision."""

from collections.abc import Mapping
from typing import Any

from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home


def explanation(home: Home, status: Mapping[str, Any], name: str | None) -> str:
    """Return why the pools of a deployment have their sizes.

    Raises:
        UserError: there is no such deployment, or nothing sizes its pools.
    """
    names = [item["metadata"]["name"] for item in status["items"]]
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        known = ", ".join(names) or "none"
        raise UserError(f"name one of these InferenceDeployments: {known}")
    try:
        return home.explanation(name).read_text()
    except FileNotFoundError:
        raise UserError(
            f"no pool of {name} is sized by the autoscaler: give one `scaling` in place of "
            "`replicas`, and wait for the first decision"
        ) from None
