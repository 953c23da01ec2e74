"""What tests of the endpoint picker ask through Envoy."""

from typing import Any

import httpx
import plain_http

CHAT = "/v1/chat/completions"


def body(text: str = "hi", **options: Any) -> dict[str, Any]:
    """Return a request for a chat."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **options}


async def post(url: str, sent: Any = None, path: str = CHAT, **options: Any) -> httpx.Response:
    """Ask once."""
    async with plain_http.client(url) as client:
        return await client.post(path, json=body() if sent is None else sent, **options)
