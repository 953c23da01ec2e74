"""What a client may have made: a batch of a file, a time for which it is kept, room for more."""

import secrets
import time
from typing import Any

from penstock_contract.api.base import seconds
from penstock_contract.errors import ApiError, ErrorCode
from penstock_gateway.batches.batch import ACTIVE, Batch
from penstock_gateway.batches.files import PURPOSE, Files
from penstock_gateway.batches.limits import (
    LONGEST_KEPT,
    LONGEST_NUMBER,
    LONGEST_WINDOW,
    MOST_METADATA,
    SHORTEST_KEPT,
    Limits,
)
from penstock_gateway.batches.lines import ENDPOINTS
from penstock_gateway.batches.store import BatchStore

Json = dict[str, Any]


def create_batch(
    asked: Json, tenant: str, files: Files, store: BatchStore, limits: Limits
) -> Batch:
    """Return a new batch.

    Raises:
        ApiError: it cannot be made of what is asked for.
    """
    endpoint = asked.get("endpoint")
    if endpoint not in ENDPOINTS:
        raise _wrong(f"must be one of {', '.join(ENDPOINTS)}", "endpoint")
    text, window = _window(asked.get("completion_window"))
    metadata = _metadata(asked.get("metadata"))
    output_kept = _output_kept(asked.get("output_expires_after"))
    input_file = _input_file(asked.get("input_file_id"), tenant, files)
    if store.count(tenant, ACTIVE) >= limits.batches:
        message = f"{limits.batches} batches have not ended; wait for one of them."
        raise ApiError(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=60)
    now = int(time.time())
    batch = Batch(
        id=f"batch_{secrets.token_hex(12)}",
        tenant=tenant,
        endpoint=endpoint,
        input_file=input_file,
        window=text,
        created=now,
        expires=now + int(window),
        metadata=metadata,
        output_expires_after=output_kept,
    )
    store.add(batch)
    return batch


def check_room(files: Files, tenant: str, limits: Limits) -> None:
    """Refuse an upload of a tenant who has stored enough.

    Raises:
        ApiError: there is no room.
    """
    count, size = files.stored(tenant)
    if count >= limits.files or size >= limits.stored:
        message = (
            f"{count} files of {size} bytes are stored, as many as may be; delete some of them."
        )
        raise ApiError(ErrorCode.PERMISSION_DENIED, message)


def kept(anchor: str | None, text: str | None) -> int:
    """Return the seconds for which a file is kept.

    Raises:
        ApiError: that is no time, or too long.
    """
    if anchor is None and text is None:
        return LONGEST_KEPT
    if anchor != "created_at":
        raise _wrong("must be created_at", "expires_after[anchor]")
    count = int(text) if text and text.isdecimal() and len(text) <= LONGEST_NUMBER else 0
    if not SHORTEST_KEPT <= count <= LONGEST_KEPT:
        raise _wrong(f"must be {SHORTEST_KEPT} to {LONGEST_KEPT}", "expires_after[seconds]")
    return count


def _output_kept(found: Any) -> int | None:
    if found is None:
        return None
    if not isinstance(found, dict):
        raise _wrong("must be an object with anchor and seconds", "output_expires_after")
    return kept(found.get("anchor"), str(found.get("seconds")))


def _window(found: Any) -> tuple[str, float]:
    try:
        window = seconds(found) if isinstance(found, str) else 0.0
    except ValueError:
        window = 0.0
    if not 1 <= window <= LONGEST_WINDOW:
        raise _wrong("must be a time like 24h, of at most 14 days", "completion_window")
    return found, window


def _metadata(found: Any) -> dict[str, str] | None:
    if found is None:
        return None
    pairs = found.items() if isinstance(found, dict) else ()
    right = [len(key) <= 64 and isinstance(text, str) and len(text) <= 512 for key, text in pairs]
    if not isinstance(found, dict) or len(found) > MOST_METADATA or not all(right):
        message = f"must be at most {MOST_METADATA} texts of 512 characters, by keys of 64"
        raise _wrong(message, "metadata")
    return found


def _input_file(found: Any, tenant: str, files: Files) -> str:
    file = files.find(tenant, found) if isinstance(found, str) else None
    if file is None:
        raise ApiError(ErrorCode.NOT_FOUND, f"No such file: {found}", param="input_file_id")
    if file.purpose != PURPOSE:
        raise _wrong(f"must be a file that was uploaded with purpose {PURPOSE}", "input_file_id")
    return file.id


def _wrong(message: str, param: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{param} {message}", param=param)
