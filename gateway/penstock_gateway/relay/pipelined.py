"""Requests may be pipelined on a connection; their answers keep the order."""


class PipelinedRequest:
    """One request on a connection, whether it is relayed or the ASGI app answers it."""

    @property
    def begun(self) -> bool:
        """Whether the head of an answer has gone."""
        raise NotImplementedError

    def start(self) -> None:
        """It is the request's turn to be answered; its body may still come."""
        raise NotImplementedError

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        raise NotImplementedError

    def complete(self) -> None:
        """The body is whole."""
        raise NotImplementedError

    def close_after(self) -> None:
        """The connection ends with this answer."""
        raise NotImplementedError

    def left(self) -> None:
        """The client has gone."""
        raise NotImplementedError
