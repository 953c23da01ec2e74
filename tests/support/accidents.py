"""Proxies that cut the answers of one request again and again, as if workers died under it."""

from fault_proxy import FaultProxy


class Accidents:
    """Workers whose answers break after so many bytes: one number per attempt of a request."""

    def __init__(self, *proxies: FaultProxy) -> None:
        self.proxies = proxies
        self.bytes: tuple[int, ...] = ()
        for proxy in proxies:
            proxy.cut = self.of

    def of(self, request: bytes) -> int | None:
        """Return after how many bytes an attempt breaks."""
        head = request.split(b"\r\n\r\n")[0]
        _, _, number = head.partition(b"x-penstock-attempt: ")
        attempt = int(number.split(b"\r\n")[0] or 1)
        return self.bytes[attempt - 1] if attempt <= len(self.bytes) else None

    @property
    def happened(self) -> int:
        """How often an answer was cut."""
        return sum(proxy.cuts for proxy in self.proxies)
