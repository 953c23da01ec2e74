"""What a worker answers before the body, or why it does not. Pure."""

from penstock_contract.metrics import Fault


class UpstreamError(Exception):
    """The worker did not serve the request to its end."""

    def __init__(self, reason: str, fault: Fault = Fault.LOST) -> None:
        super().__init__(reason)
        self.fault = fault


class Response:
    """The head of an answer; `Connection.piece` gives the rest."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers

    def header(self, name: bytes) -> bytes:
        """Return a header's value, or nothing."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""
