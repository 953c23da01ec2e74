"""A worker that behaves as badly as a test needs: raw asyncio, scripted by the request's model.

The gateway's failure handling cannot be provoked at will with a real engine; everything that a real
worker can show is tested with real ones (tests/e2e).
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Self

import vllm_answers

OK = b'{"object":"chat.completion","choices":[]}'
EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(5)] + [b"data: [DONE]\n\n"]


@dataclass
class Seen:
    """One request as it arrived."""

    head: bytes
    body: bytes


@dataclass(eq=False)
class StubWorker:
    """Listens on a free port; `script` says what it does with each request."""

    script: str = "json"
    seen: list[Seen] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway closes a connection in the middle of an answer."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets a paused stream go on."""
    healthy: bool = True
    """What it says when asked for its health."""
    health_checks: int = 0
    metrics: str = ""
    """What it says when scraped; nothing is 404."""
    scrapes: int = 0
    port: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tired_of: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        self.abandon()

    def abandon(self) -> None:
        """Close all connections, in the middle of whatever they carry."""
        for writer in self._open:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop listening: connections are refused from now on."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /health "):
            self.health_checks += 1
            writer.write(_head(200 if self.healthy else 503, "text/plain", "content-length: 0"))
            await writer.drain()
            return True
        if head.startswith(b"GET /metrics "):
            self.scrapes += 1
            text, status = self.metrics.encode(), 200 if self.metrics else 404
            writer.write(_head(status, "text/plain", f"content-length: {len(text)}") + text)
            await writer.drain()
            return True
        self.seen.append(Seen(head, await _body(head, reader)))
        return bool(await getattr(self, f"_{self.script}")(reader, writer))

    async def _json(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(_head(200, "application/json", f"content-length: {len(OK)}") + OK)
        await writer.drain()
        return True

    async def _json_once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer, and close the connection although it could be kept."""
        await self._json(reader, writer)
        return False

    async def _tired(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request of a connection, and hang up on the next."""
        if writer in self._tired_of:
            return await self._die(reader, writer)
        self._tired_of.add(writer)
        return await self._json(reader, writer)

    async def _refuse(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = b'{"error":{"message":"no","code":"context_length_exceeded"}}'
        writer.write(_head(400, "application/json", f"content-length: {len(body)}") + body)
        await writer.drain()
        return True

    async def _stranger(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Know another token than the gateway."""
        writer.write(_head(401, "application/json", "content-length: 2") + b"{}")
        await writer.drain()
        return True

    async def _stream(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        for event in EVENTS:
            writer.write(_chunk(event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _paused(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Stream one event, then wait: for `release`, or for the gateway to go."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        writer.write(_chunk(EVENTS[0]))
        await writer.drain()
        gone = asyncio.create_task(reader.read(1))
        released = asyncio.create_task(self.release.wait())
        await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            self.closed.set()
            released.cancel()
            return False
        gone.cancel()
        writer.write(_chunk(EVENTS[-1]) + b"0\r\n\r\n")
        await writer.drain()
        return False

    async def _silent(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bool:
        """Never answer."""
        await reader.read(1)
        self.closed.set()
        return False

    async def _die(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Close before the first byte."""
        writer.transport.abort()
        return False

    async def _cut(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Die in the middle of a stream."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        writer.write(_chunk(EVENTS[0]) + _chunk(EVENTS[1]))
        await writer.drain()
        await asyncio.sleep(0)
        writer.close()
        return False

    async def _head_only(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Die between the head of a stream and its first event."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        await writer.drain()
        writer.close()
        return False

    async def _drained(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Refuse as a worker does that drains."""
        return await self._refusal(writer, b"shutting_down")

    async def _handing_back(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """End what was not begun in time, as a worker does whose grace is over."""
        return await self._refusal(writer, b"handed_back")

    async def _busy(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Refuse for another reason that may pass."""
        return await self._refusal(writer, b"no_capacity")

    async def _refusal(self, writer: asyncio.StreamWriter, code: bytes) -> bool:
        body = b'{"error":{"message":"no","code":"%b"}}' % code
        writer.write(_head(503, "application/json", f"content-length: {len(body)}") + body)
        await writer.drain()
        return True

    async def _short(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Die in the middle of a body that is not streamed."""
        writer.write(_head(200, "application/json", "content-length: 1000") + OK)
        await writer.drain()
        return False

    async def _long_and_short(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Die in the middle of a long body that is not streamed."""
        writer.write(_head(200, "application/json", "content-length: 3000000") + b" " * 2_000_000)
        await writer.drain()
        return False

    async def _garbage(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        await writer.drain()
        return False

    async def _html(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer as a proxy does that has lost its way."""
        page = b"<html><body>It works!</body></html>"
        writer.write(_head(200, "text/html", f"content-length: {len(page)}") + page)
        await writer.drain()
        return True

    async def _noise(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Stream something that is no event."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        writer.write(_chunk(b"\x93\x00 noise \xff\n\n" * 3) + b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _mute(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Stream nothing, and end as if that were an answer."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked") + b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _vllm_ending(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take a request while it ends."""
        if json.loads(self.seen[-1].body).get("stream"):
            return await self._events(writer, vllm_answers.NOTHING)
        return await self._whole(writer, 200, vllm_answers.ABORTED_WHOLE)

    async def _vllm_ended(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Be told to end in the middle of a stream, at `release`."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        writer.write(_chunk(vllm_answers.ROLE + vllm_answers.CHUNK))
        await self.release.wait()
        writer.write(_chunk(vllm_answers.ABORTED) + b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _vllm_begins(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Begin each stream and break it off."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        writer.write(_chunk(vllm_answers.ROLE))
        await writer.drain()
        writer.write(_chunk(vllm_answers.ABORTED) + b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _vllm_broken(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Lose the engine before the first token."""
        return await self._events(writer, vllm_answers.ENGINE_DEAD)

    async def _vllm_generates(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Have no route for anything else."""
        return await self._whole(writer, 404, vllm_answers.NO_ROUTE)

    async def _heard(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._whole(writer, 200, vllm_answers.TRANSCRIPTION)

    async def _heard_as_stream(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._events(writer, vllm_answers.TRANSCRIPTION_EVENTS)

    async def _subtitles(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        length = f"content-length: {len(vllm_answers.SUBTITLES)}"
        writer.write(_head(200, "text/vtt", length) + vllm_answers.SUBTITLES)
        await writer.drain()
        return True

    async def _events(self, writer: asyncio.StreamWriter, events: bytes) -> bool:
        head = _head(200, "text/event-stream; charset=utf-8", f"content-length: {len(events)}")
        writer.write(head + events)
        await writer.drain()
        return True

    async def _whole(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> bool:
        writer.write(_head(status, "application/json", f"content-length: {len(body)}") + body)
        await writer.drain()
        return True

    async def _failing(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = b'{"error":{"message":"no","code":"cuda"}}'
        writer.write(_head(500, "application/json", f"content-length: {len(body)}") + body)
        await writer.drain()
        return True

    async def _crawl(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._slowly(writer, 0.3)

    async def _trot(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self._slowly(writer, 0.001)

    async def _slowly(self, writer: asyncio.StreamWriter, pause: float) -> bool:
        """Stream with a pause before each event."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        for event in EVENTS[:-1] * 2 + EVENTS[-1:]:
            await asyncio.sleep(pause)
            writer.write(_chunk(event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _flood(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Stream as fast as the gateway takes it, for ever."""
        writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
        self.sent = 0
        while True:
            writer.write(_chunk(b'data: {"x":"' + b"x" * 65_000 + b'"}\n\n'))
            await writer.drain()
            self.sent += 65_000


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" not in lines:
        length = next(line for line in lines if line.startswith(b"content-length:"))
        return await reader.readexactly(int(length.split(b":")[1]))
    found = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        found += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return found


def _head(status: int, content_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n{framing}\r\n"
        "x-penstock-epoch: secret\r\nkeep-alive: timeout=5\r\n\r\n"
    ).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
