"""A busy piece of a trace as streams, each sent at its time, and what their clients saw."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from pathlib import Path

from tokenizers import Tokenizer

from penstock_operator.simulation.trace import Arrival

PATIENCE = 60.0
"""Seconds after which a client takes its answer for lost."""


@dataclass
class Seen:
    """What a client saw of its request."""

    late: float = 0.0
    """Seconds by which it was sent after its time: the load generator's fault."""
    ttft: float = inf
    """Seconds from when it should have been sent; inf: no token came."""
    status: int = 0
    whole: bool = False
    ended: float = 0.0
    """Seconds after the first request's time."""


def busiest(
    trace: Sequence[Arrival], work: Callable[[Arrival], float], wanted: float, seconds: float
) -> list[Arrival]:
    """Return the shortest piece of a trace that brings so much work, played in so many seconds.

    Playing a piece faster keeps its shape, and no request comes twice.
    """
    total = [0.0, *accumulate(map(work, trace))]
    best, length, first = (0, 0), inf, 0
    for last in range(len(trace)):
        while total[last + 1] - total[first + 1] >= wanted:
            first += 1
        taken = trace[last].time - trace[first].time
        if total[last + 1] - total[first] >= wanted and taken < length:
            best, length = (first, last), taken
    if length == inf:
        raise SystemExit(f"the whole trace is {total[-1]:.0f} s of work, {wanted:.0f} are wanted")
    begin, faster = trace[best[0]].time, seconds / length
    piece = trace[best[0] : best[1] + 1]
    return [replace(arrival, time=(arrival.time - begin) * faster) for arrival in piece]


class Prompts:
    """Texts of so many tokens, no two of which begin alike.

    Args:
        model: folder with the tokenizer.
        seed: of the words.
    """

    def __init__(self, model: Path, seed: int = 0) -> None:
        vocabulary = Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab()
        words = (token[1:] for token in sorted(vocabulary) if token.startswith("Ġ"))
        self._words = [word for word in words if word.isascii() and word.isalpha()]
        self._random = random.Random(seed)

    def text(self, tokens: int) -> str:
        """Return words that are a token each, with the space before them."""
        return " " + " ".join(self._random.choices(self._words, k=tokens))


def body(model: str, prompt: str, tokens: int) -> bytes:
    """Return a request for a stream of so many tokens."""
    wanted = {
        "model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True,
        "temperature": 0, "stream": True,
    }  # fmt: skip
    return json.dumps(wanted).encode()


async def replay(
    address: str, trace: Sequence[Arrival], bodies: Sequence[bytes], until: float = inf
) -> list[Seen]:
    """Send every request at its time, and return what came of them.

    Args:
        address: host and port.
        trace: when to send.
        bodies: what to send.
        until: seconds after which clients that still wait hang up.
    """
    began = time.monotonic()
    found = [Seen() for _ in trace]
    async with asyncio.TaskGroup() as tasks:
        running = []
        for arrival, asked, seen in zip(trace, bodies, found, strict=True):
            await asyncio.sleep(max(0.0, began + arrival.time - time.monotonic()))
            ask = _ask(address, asked, began + arrival.time, seen)
            running.append(tasks.create_task(ask))
        if until < inf:
            await asyncio.sleep(max(0.0, began + until - time.monotonic()))
            for task in running:
                task.cancel()
    for seen in found:
        seen.ended -= began
    return found


async def _ask(address: str, asked: bytes, when: float, seen: Seen) -> None:
    """Ask on a connection of its own: an HTTP client would take as much CPU as all workers do."""
    seen.late = time.monotonic() - when
    host, _, port = address.partition(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(asked)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + asked)
            try:
                await _read(reader, when, seen)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        pass
    seen.ended = time.monotonic()


async def _read(reader: asyncio.StreamReader, when: float, seen: Seen) -> None:
    end, failed = b"", False
    while piece := await reader.read(1 << 16):
        if not seen.status:
            seen.status = int(piece[9:12])
        if seen.ttft == inf and b"data: {" in piece:
            seen.ttft = time.monotonic() - when
        failed = failed or b'data: {"error"' in piece
        end = (end + piece)[-64:]
    seen.whole = seen.status == 200 and not failed and b"data: [DONE]" in end
