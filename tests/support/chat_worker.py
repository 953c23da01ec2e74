"""A worker that answers every chat completion with the same text and tool call."""

import asyncio
import json
from typing import Any

from stub_worker import StubWorker

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 8},
}
FUNCTION = {"name": "look", "arguments": '{"at": 1}'}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": FUNCTION}
WHOLE = {
    "id": "c1",
    "created": 7,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"content": "Hello", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
}


def chunk(**delta: Any) -> dict[str, Any]:
    """Return a chunk whose delta holds these fields; `finish_reason` stands beside it."""
    reason = delta.pop("finish_reason", None)
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "c1", "created": 7, "model": "m", "choices": choices, "usage": None}


CHUNKS = [
    chunk(role="assistant", content=""),
    chunk(content="Hel"),
    chunk(content="lo"),
    chunk(tool_calls=[{**CALL, "function": {"name": "look", "arguments": ""}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"at"'}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
    chunk(finish_reason="tool_calls"),
    {"id": "c1", "created": 7, "model": "m", "choices": [], "usage": USAGE},
]
STREAM = b"".join(
    b": tokens 0 1\ndata: " + json.dumps(found).encode() + b"\n\n" for found in CHUNKS
)


class ChatWorker(StubWorker):
    """Answers "Hello" and a call of `look`: `WHOLE`, or streamed `CHUNKS`."""

    async def _unstreamed(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, b"application/json", json.dumps(WHOLE).encode())

    async def _streamed(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, b"text/event-stream", STREAM + b"data: [DONE]\n\n")

    async def _send(self, writer: asyncio.StreamWriter, kind: bytes, body: bytes) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (kind, len(body), body)
        )
        await writer.drain()
        return True

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the last request."""
        return dict(json.loads(self.seen[-1].body))
