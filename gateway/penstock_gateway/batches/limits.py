"""What the service takes, at most."""

from dataclasses import dataclass
from typing import Final

MOST_LINES: Final = 50_000
"""Requests of a batch, as OpenAI has it."""
SHORTEST_KEPT: Final = 3600
LONGEST_KEPT: Final = 30 * 86400
"""Seconds that a file is kept; without a word of its owner, as long as can be."""
LONGEST_NUMBER: Final = len(str(LONGEST_KEPT))
"""Digits of that; Python takes long to read many."""
LONGEST_WINDOW: Final = 14 * 86400.0
"""Seconds of a completion window."""
MOST_ENDED: Final = 10_000
"""Batches of a tenant that are remembered, the newest."""
MOST_METADATA: Final = 16
"""Pairs."""
LONGEST_NAME: Final = 255
"""Characters of a file's name."""


@dataclass(frozen=True)
class Limits:
    """What whoever runs the service may choose."""

    file: int = 200 << 20
    """Bytes of an upload."""
    stored: int = 2 << 30
    """Bytes of all files of a tenant, before an upload is refused."""
    files: int = 1000
    """Files of a tenant, likewise."""
    batches: int = 100
    """Batches of a tenant that have not ended."""
    concurrency: int = 64
    """Requests in flight."""
