"""Other APIs before workers whose refusals are in no shape that anybody knows."""

import asyncio
from typing import Any

import pytest
from stream_auditor import record
from stub_worker import StubWorker

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway(shared: Any) -> Any:
    return shared


MESSAGE = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
RESPONSE = {"model": "m", "input": "hi"}


class Refusing(StubWorker):
    """Refuses with what it is given."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__("unread")
        self._refused = status, body

    async def _unread(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._whole(writer, *self._refused)


@pytest.mark.parametrize(("path", "body"), [("messages", MESSAGE), ("responses", RESPONSE)])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, b"Internal Server Error"),  # of vLLM's server, where it has a bug
        (413, b"<html>too large</html>"),  # of a proxy
        (400, b'{"error":"what"}'),
        (400, b"[]"),
    ],
)
async def test_a_refusal_that_cannot_be_read_is_an_error_all_the_same(
    gateway: Any, path: str, body: dict[str, Any], status: int, said: bytes
) -> None:
    async with Refusing(status, said) as worker:
        await gateway.serve(worker)
        answer = await record(gateway.url, f"/v1/{path}", body)
        assert answer.status == status
        assert "did not say why" in answer.json()["error"]["message"]
