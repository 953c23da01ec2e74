"""Refuses whoever does not show the token that the gateway shows."""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.worker_token import HEADER, WorkerTokens
from penstock_worker.server import errors

PUBLIC: Final = frozenset({"/health", "/ping", "/version", "/metrics"})
"""Asked by kubelets and by Prometheus, who know no token; they tell nothing of any request."""


class Authorization:
    """ASGI middleware.

    Args:
        app: what is behind it.
        tokens: that are accepted; without any, everybody is served.
        public: paths for which nobody is asked.
    """

    def __init__(self, app: ASGIApp, tokens: WorkerTokens, public: frozenset[str] = PUBLIC) -> None:
        self._public = public
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        known = scope["type"] != "http" or scope["path"] in self._public
        if known or self._tokens.admit(Headers(scope=scope).get(HEADER, "")):
            await self._app(scope, receive, send)
            return
        message = "This worker answers its gateway only; send requests there."
        refusal = errors.response(ApiError(ErrorCode.INVALID_API_KEY, message))
        await refusal(scope, receive, send)
