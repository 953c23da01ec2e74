"""Choices that wait for the prompt they share, which the first of them computes. Plain Python."""

from penstock_worker.request import Request


class Forks:
    """Who waits for whom."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Request]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def wait(self, request: Request, first: Request | None) -> bool:
        """Let a choice wait for the first one's prompt; False when it must compute its own."""
        if first is None or first.computed >= first.prompt_length:
            return False
        if request.resumed_at or request.unscored:
            return False
        if first.salt != request.salt or _prompt(first) != _prompt(request):
            return False
        self._waiting.setdefault(first.id, []).append(request)
        return True

    def take(self, first: Request) -> list[Request]:
        """Return those who waited for a request, and forget them."""
        return self._waiting.pop(first.id, [])

    def discard(self, request: Request) -> None:
        """Forget a request that may be waiting."""
        for first, waiting in list(self._waiting.items()):
            if request in waiting:
                waiting.remove(request)
                if not waiting:
                    del self._waiting[first]


def _prompt(request: Request) -> list[int]:
    return request.tokens[: request.prompt_length]
