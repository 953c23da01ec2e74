"""An independent judge of streamed answers, from raw bytes up.

It shares no code with the gateway, the worker or any SDK, because SDKs take a cleanly closed but
truncated stream for success. It reads the socket itself, so it knows how the stream ended on the
wire, and it checks every streaming invariant that Penstock promises (docs/streaming.md).
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Recording:
    """What came over the wire in answer to one request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each piece came, monotonic seconds."""
    clean_end: bool = False
    """The HTTP framing was completed (last chunk or full content-length)."""

    def events(self) -> list[str]:
        """Return the data of each server-sent event; comment lines are skipped."""
        found = []
        for block in self.body.decode("utf-8").split("\n\n"):
            lines = [line[5:].lstrip(" ") for line in block.split("\n") if line.startswith("data:")]
            if lines:
                found.append("\n".join(lines))
        return found

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass
class Verdict:
    """What an audited stream amounted to."""

    violations: list[str]
    outcome: str
    """`complete`, `error` (explicit, in-band) or `broken` (neither: the user was left guessing)."""
    texts: dict[int, str]
    finish_reasons: dict[int, str]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None


async def record(
    base_url: str,
    path: str,
    payload: dict[str, Any],
    *,
    headers: dict[str, str] | None = None,
    first_piece: asyncio.Event | None = None,
    into: Recording | None = None,
) -> Recording:
    """Send a POST and record the raw answer until it ends or the connection does.

    Args:
        base_url: scheme, host and port.
        path: of the route.
        payload: the body.
        headers: beside those that every request has.
        first_piece: set as soon as something has come of the answer's body.
        into: what to record into, for those who watch it grow.
    """
    where = urlsplit(base_url)
    body = json.dumps(payload).encode()
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{extra}\r\n".encode()
        + body
    )
    recording = into or Recording()
    try:
        await _read_head(reader, recording)
        await _read_body(reader, recording, first_piece)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # clean_end stays False
    finally:
        writer.close()
    return recording


async def _read_head(reader: asyncio.StreamReader, recording: Recording) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    recording.status = int(head[0].split(" ")[1])
    for line in head[1:]:
        if line:
            name, _, value = line.partition(":")
            recording.headers[name.lower()] = value.strip()


async def _read_body(
    reader: asyncio.StreamReader, recording: Recording, first_piece: asyncio.Event | None
) -> None:
    def keep(piece: bytes) -> None:
        recording.pieces.append(piece)
        recording.times.append(time.monotonic())
        recording.body += piece
        if first_piece is not None:
            first_piece.set()

    if recording.headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            keep(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        await reader.readuntil(b"\r\n")
    else:
        keep(await reader.readexactly(int(recording.headers["content-length"])))
    recording.clean_end = True


def audit(recording: Recording, *, include_usage: bool, choices: int = 1) -> Verdict:
    """Judge a recorded stream against the streaming invariants.

    Args:
        recording: what came over the wire.
        include_usage: whether the request asked for usage.
        choices: the request's `n` (times its prompts, for completions).
    """
    return _Audit(recording, include_usage, choices).run()


class _Audit:
    def __init__(self, recording: Recording, include_usage: bool, choices: int) -> None:
        self.recording = recording
        self.include_usage = include_usage
        self.choices = choices
        self.violations: list[str] = []
        self.identity: tuple[Any, ...] | None = None
        self.texts: dict[int, str] = {}
        self.finished: dict[int, str] = {}
        self.usage: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self.done = False

    def expect(self, holds: bool, violation: str) -> None:
        if not holds:
            self.violations.append(violation)

    def run(self) -> Verdict:
        self.check_headers()
        try:
            events = self.recording.events()
        except UnicodeDecodeError:
            self.violations.append("the stream is not whole UTF-8")
            events = []
        for event in events:
            self.check_event(event)
        outcome = self.check_end()
        return Verdict(self.violations, outcome, self.texts, self.finished, self.usage, self.error)

    def check_headers(self) -> None:
        headers = self.recording.headers
        self.expect(self.recording.status == 200, f"status {self.recording.status}")
        self.expect(headers.get("content-type", "").startswith("text/event-stream"), "content-type")
        self.expect(headers.get("cache-control") == "no-cache", "cache-control")
        self.expect(headers.get("x-accel-buffering") == "no", "x-accel-buffering")
        self.expect("content-encoding" not in headers, "the stream is compressed")
        self.expect("x-request-id" in headers, "no x-request-id")

    def check_event(self, event: str) -> None:
        self.expect(not self.done, "an event after [DONE]")
        self.expect(self.error is None, "an event after the error")
        if event == "[DONE]":
            self.done = True
            return
        try:
            data = json.loads(event)
        except ValueError:
            self.violations.append("an event is not JSON")
            return
        if "error" in data:
            self.error = data["error"]
            return
        self.check_chunk(data)

    def check_chunk(self, data: dict[str, Any]) -> None:
        identity = (data["id"], data["created"], data["model"], data["object"])
        self.expect(self.identity in (None, identity), "id, created, model or object changed")
        self.identity = identity
        self.expect(self.usage is None, "a chunk after the usage chunk")
        if not data["choices"]:
            self.expect(self.include_usage, "a usage chunk that nobody asked for")
            self.expect(bool(data.get("usage")), "a chunk without choices and usage")
            self.usage = data.get("usage")
            return
        if self.include_usage:
            self.expect("usage" in data and data["usage"] is None, "usage is not null mid-stream")
        else:
            self.expect(data.get("usage") is None, "usage that nobody asked for")
        for choice in data["choices"]:
            self.check_choice(choice)

    def check_choice(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        self.expect(index < self.choices, f"choice {index} of {self.choices}")
        self.expect(index not in self.finished, f"choice {index} goes on after its finish_reason")
        if "delta" in choice:
            first = index not in self.texts
            has_role = choice["delta"].get("role") == "assistant"
            self.expect(has_role or not first, f"choice {index} does not start with its role")
            text = choice["delta"].get("content") or ""
        else:
            self.expect("text" in choice, f"choice {index} has neither delta nor text")
            text = choice.get("text", "")
        self.texts[index] = self.texts.get(index, "") + text
        if choice.get("finish_reason") is not None:
            self.finished[index] = choice["finish_reason"]

    def check_end(self) -> str:
        if self.error is not None:
            self.expect(not self.done, "[DONE] after an error")
            self.expect(not self.recording.clean_end, "a clean end after an error")
            return "error"
        complete = self.done and self.recording.clean_end
        complete = complete and len(self.finished) == self.choices
        if complete:
            self.expect(not self.include_usage or self.usage is not None, "no usage chunk")
            return "complete"
        self.violations.append("the stream ended without [DONE], finish_reason or error")
        return "broken"
