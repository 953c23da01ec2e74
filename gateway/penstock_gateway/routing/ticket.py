"""What routing knows of a request before, while and after a worker has it. Pure."""

from typing import NamedTuple

from penstock_gateway.routing.policy import Choice
from penstock_gateway.routing.prefix_index import PrefixKeys


class Prompt:
    """What routing knows of a request.

    Args:
        keys: of its prefixes.
        size: bytes.
        session: the session that the client says it belongs to.
        streamed: its first byte is the first token's; otherwise the last one's.
    """

    def __init__(
        self,
        keys: PrefixKeys | None = None,
        size: int = 0,
        session: str | None = None,
        streamed: bool = True,
    ) -> None:
        self.keys: PrefixKeys = keys or []
        self.size = size
        self.session = session
        self.streamed = streamed

    def told_by(self, *, stream: bool) -> "Prompt":
        """Return the same prompt where another answer tells of it than the client's."""
        return Prompt(self.keys, self.size, self.session, stream)


class Ticket:
    """A request that was given to a worker; hand it back when it ends.

    Args:
        number: unique.
        prompt: of the request.
        choice: of the worker.
        sent: monotonic seconds.
        stamp: of the index's record.
        pulled: the worker does not compute the prompt: it fetches the KV from another one.
        decoding: sequences that the worker generates already.
    """

    def __init__(
        self,
        number: int,
        prompt: Prompt,
        choice: Choice,
        sent: float,
        stamp: int,
        *,
        pulled: bool = False,
        decoding: int = 0,
    ) -> None:
        self.worker = choice.id
        self.number = number
        self.prompt = prompt
        self.choice = choice
        self.sent = sent
        self.stamp = stamp
        self.pulled = pulled
        self.decoding = decoding
        self.resumed = False
        """It goes on with an answer, which is computed together with the prompt."""
        self.begun = False
        """Something of the answer has come."""


class Prediction(NamedTuple):
    """Prompt tokens of one request: those expected to be cached, and those that were."""

    predicted: int
    cached: int
