"""A stand-in that speaks vLLM 0.32's streams, byte for byte as a real one wrote them.

What it says next follows from all ids before, as with greedy decoding, so that the rest of a broken
stream can be told from any other. Where it breaks is chosen, which a real one does not let you.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import vllm_answers
from stub_worker import Seen, StubWorker

EURO: Final = (298, 299)
"""The ids of one character, in two halves."""
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_BYTES: Final = {298: b"\xe2\x82", 299: b"\xac"}
CHAT: Final = "/v1/chat/completions"


def text_of(ids: Sequence[int]) -> str:
    """Return the text of ids; half a character is a replacement character."""
    found = b"".join(_BYTES.get(one, b" w%d" % one) for one in ids)
    return found.decode("utf-8", "replace")


def following(ids: Sequence[int]) -> int:
    """Return the id that comes next."""
    if ids[-1] == EURO[0]:
        return EURO[1]
    found = sum(place * one for place, one in enumerate(ids, 1)) % 120
    return EURO[0] if found < 20 else found


def stopped(text: str, stops: Sequence[str]) -> tuple[str, str]:
    """Return a text up to the first stop string that is complete in it, and that."""
    ends = [(text.find(stop) + len(stop), at) for at, stop in enumerate(stops) if stop in text]
    if not ends:
        return text, ""
    end, at = min(ends)
    return text[: end - len(stops[at])], stops[at]


def _places(said: Sequence[int], last: int) -> dict[str, Any]:
    """Return the logprobs of the last tokens of a plain completion."""
    tokens = [text_of([one]) for one in said]
    before = [sum(map(len, tokens[:at])) for at in range(len(tokens))]
    return {
        "text_offset": before[-last:],
        "token_logprobs": [-1.0] * last,
        "tokens": tokens[-last:],
        "top_logprobs": [None] * last,
    }


def prompt_of(body: Any) -> list[int]:
    """Return the ids of a prompt, as the template or the client makes them."""
    given = (body.get("kv_transfer_params") or {}).get("prompt_token_ids")
    if given is not None:
        return list(given)
    prompt = body.get("prompt")
    if isinstance(prompt, list):
        return list(prompt)
    return list(json.dumps(prompt or body["messages"]).encode())


@dataclass
class Answer:
    """What a request is answered."""

    path: str
    body: Any
    request_id: str = "1"
    created: int = 1795310252
    per_event: int = 1
    """Ids in one event."""

    def events(self) -> Iterator[bytes]:
        """Return the events of the stream."""
        prompt, said, shown = prompt_of(self.body), list[int](), ""
        most = self.body.get("max_completion_tokens") or self.body.get("max_tokens", 16)
        if self.path == CHAT:
            yield self._role(prompt)
        stops = self._stops()
        back = max(map(len, stops), default=1) - 1
        stop = ""
        while len(said) < most and not stop:
            new = list[int]()
            text = text_of(said)
            while len(new) < self.per_event and len(said) < most and not stop:
                new.append(following(prompt + said))
                said.append(new[-1])
                text = text_of(said)
                text = text if len(said) == most else text.rstrip("\ufffd")
                text, stop = stopped(text, stops)
            over = len(said) == most or bool(stop)
            end = len(text) if over else max(len(shown), len(text) - back)
            delta = text[len(shown) : end]
            yield self._event(prompt, said, new, delta, over, stop)
            shown += delta
        options = self.body.get("stream_options") or {}
        if options.get("include_usage"):
            details = {"prompt_tokens_details": {"cached_tokens": len(prompt) - 1}}
            yield self._data({"choices": [], "usage": _usage(prompt, said) | details})
        yield vllm_answers.DONE

    def _role(self, prompt: list[int]) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        choices = [choice | {"logprobs": None, "finish_reason": None}]
        told = {"prompt_token_ids": self._told(prompt), "prompt_text": None}
        return self._data({"choices": choices} | self._running(prompt, []) | told)

    def _stops(self) -> list[str]:
        found = self.body.get("stop") or []
        return [found] if isinstance(found, str) else found

    def _event(
        self,
        prompt: list[int],
        said: list[int],
        new: list[int],
        text: str,
        over: bool,
        stop: str,
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": text}} if self.path == CHAT else {"text": text}
        reason = ("stop" if stop else "length") if over else None
        logprobs = None
        if self.path != CHAT and self.body.get("logprobs") is not None:
            logprobs = _places(said, len(new))
        choice |= {"logprobs": logprobs, "finish_reason": reason}
        if over or self.path != CHAT:
            choice["stop_reason"] = stop or None
        if self.path != CHAT:
            choice["prompt_token_ids"] = self._told(prompt) if said == new else None
        choice["token_ids"] = self._told(new)
        return self._data({"choices": [choice]} | self._running(prompt, said))

    def _told(self, ids: list[int]) -> list[int] | None:
        return ids if self.body.get("return_token_ids") else None

    def _running(self, prompt: list[int], said: list[int]) -> dict[str, Any]:
        options = self.body.get("stream_options") or {}
        return {"usage": _usage(prompt, said)} if options.get("continuous_usage_stats") else {}

    def _data(self, rest: Any) -> bytes:
        chat = self.path == CHAT
        first = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.request_id}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": self.created,
            "model": self.body["model"],
        }
        data = json.dumps(first | rest, separators=(",", ":"), ensure_ascii=False)
        return f"data: {data}\n\n".encode()


def _usage(prompt: list[int], said: list[int]) -> dict[str, Any]:
    total = len(prompt) + len(said)
    return {"prompt_tokens": len(prompt), "total_tokens": total, "completion_tokens": len(said)}


class VllmStandIn(StubWorker):
    """Streams as vLLM does, and breaks where it is told to.

    Args:
        breaks_after: events of the first stream; None: it does not break.
        last: what it says instead of the rest; nothing: its connection breaks.
        per_event: ids in one event.
        knows_ids: it takes the ids of a chat's prompt, as older ones do not.
    """

    def __init__(
        self,
        breaks_after: int | None = None,
        last: bytes = b"",
        per_event: int = 1,
        *,
        knows_ids: bool = True,
    ) -> None:
        super().__init__("streams")
        self.breaks_after = breaks_after
        self.last = last
        self.per_event = per_event
        self.knows_ids = knows_ids
        self.passed = asyncio.Event()
        """Set by the test when what came before the break has been read."""

    async def _streams(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        path, body = asked(self.seen[-1])
        if path == "/detokenize":
            text = json.dumps({"prompt": text_of(body["tokens"])}).encode()
            return await self._whole(writer, 200, text)
        if not self.knows_ids:
            body.pop("kv_transfer_params", None)
        events = list(Answer(path, body, str(self.port), self.port, self.per_event).events())
        writer.write(_HEAD)
        for event in events[: self.breaks_after]:
            writer.write(_chunk(event))
            await writer.drain()
        if self.breaks_after is None:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        await self.passed.wait()
        if self.last:
            writer.write(_chunk(self.last) + b"0\r\n\r\n")
            await writer.drain()
            return True
        writer.transport.abort()
        return False


def asked(seen: Seen) -> tuple[str, Any]:
    """Return the path and the body of a request."""
    return seen.head.split(b" ")[1].decode(), json.loads(seen.body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
