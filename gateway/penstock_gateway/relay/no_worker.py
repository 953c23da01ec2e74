"""Refusals of what no worker can take now."""

from typing import Final

from penstock_contract.errors import ApiError, ErrorCode

RETRY_AFTER: Final = 2.0
"""Seconds; about what a restarted worker needs to be ready."""


def nobody_ready(model: str) -> ApiError:
    """Return the refusal of a request for a model that nobody serves now."""
    why = f"No worker of {model!r} is ready; try again soon."
    return ApiError(ErrorCode.NO_CAPACITY, why, retry_after=RETRY_AFTER)


def not_loaded(adapter: str) -> ApiError:
    """Return the refusal of a request for an adapter that nobody has loaded yet."""
    why = f"No worker has loaded the adapter {adapter!r} yet; try again soon."
    return ApiError(ErrorCode.NO_CAPACITY, why, retry_after=RETRY_AFTER)
