"""A request for the ASGI app, waiting for its turn or being answered."""

from penstock_gateway.delegate import Delegate, Head
from penstock_gateway.relay.pipelined import PipelinedRequest


class Delegated(PipelinedRequest):
    """A request for the app."""

    def __init__(self, delegate: Delegate, head: Head) -> None:
        self._delegate = delegate
        self._head = head
        self._started = False
        self._pieces: list[bytes] = []
        self._whole = False

    @property
    def begun(self) -> bool:
        """See `PipelinedRequest.begun`."""
        return self._started and self._delegate.cycle.response_started

    def start(self) -> None:
        """See `PipelinedRequest.start`."""
        self._started = True
        self._delegate.begin(self._head)
        for piece in self._pieces:
            self._delegate.on_body(piece)
        if self._whole:
            self._delegate.on_message_complete()

    def feed(self, piece: bytes) -> None:
        """See `PipelinedRequest.feed`."""
        if self._started:
            self._delegate.on_body(piece)
        else:
            self._pieces.append(piece)

    def complete(self) -> None:
        """See `PipelinedRequest.complete`."""
        self._whole = True
        if self._started:
            self._delegate.on_message_complete()

    def close_after(self) -> None:
        """See `PipelinedRequest.close_after`."""
        self._delegate.shutdown()

    def left(self) -> None:
        """See `PipelinedRequest.left`; uvicorn has been told."""
