"""A JSON response, serialised by orjson."""

from typing import Any

import orjson
from starlette.responses import Response


class JsonResponse(Response):
    """JSON with a status and headers."""

    media_type = "application/json"

    def __init__(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(orjson.dumps(body), status, headers)
