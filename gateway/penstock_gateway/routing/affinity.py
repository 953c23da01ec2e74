"""What keeps requests that belong together at one worker: their session, or how they begin."""

from typing import Final

from xxhash import xxh3_64_intdigest

from penstock_gateway.routing.generations import Generations
from penstock_gateway.routing.ticket import Prompt

SESSIONS: Final = 50_000
"""Sessions remembered per generation."""
HASHED_KEY: Final = 7
"""The key by which ConsistentHash chooses: the first two kilobytes, or less."""


class Sessions:
    """Remembers which worker the last request of a session went to."""

    def __init__(self) -> None:
        self._workers: Generations[int, str] = Generations(SESSIONS)

    def worker(self, prompt: Prompt) -> str | None:
        """Return the worker that has a request's session."""
        return self._workers.get(session_digest(prompt.session)) if prompt.session else None

    def put(self, digest: int, worker: str) -> None:
        """A request of a session went to a worker."""
        self._workers.put(digest, worker)


def session_digest(session: str) -> int:
    """Return by what a session is remembered."""
    return xxh3_64_intdigest(session.encode("utf-8", "surrogateescape"))


def hash_key(prompt: Prompt) -> int:
    """Return what ConsistentHash goes by: the session, or the prompt's beginning."""
    if prompt.session:
        return session_digest(prompt.session)
    return prompt.keys[min(HASHED_KEY, len(prompt.keys) - 1)] if prompt.keys else 0
