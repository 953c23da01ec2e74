"""Asking a served model from the command line, streamed to the screen as it comes."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from penstock_operator.local.errors import UserError


class ChatError(Exception):
    """The endpoint refused, or the answer broke off; the message is the API's."""


def choose_model(served: Sequence[str], wanted: str | None) -> str:
    """Return the model to ask: the one that is named, else the only one.

    Raises:
        UserError: none was named and there is not exactly one.
    """
    if wanted is not None:
        return wanted
    if len(served) != 1:
        raise UserError(f"choose one with --model: {', '.join(served) or 'nothing is served'}")
    return served[0]


class Chat:
    """A conversation: every question is sent with what was said before."""

    def __init__(self, endpoint: str, options: dict[str, Any], key: str | None = None) -> None:
        """`options` are fields of every request, such as the model; `key` is an API key."""
        self._endpoint = endpoint
        self._key = key
        self._options = options
        self._messages: list[dict[str, str]] = []

    def ask(self, question: str) -> Iterator[str]:
        """Yield the pieces of an answer.

        Raises:
            ChatError: refused, unreachable, or not finished.
        """
        self._messages.append({"role": "user", "content": question})
        answer = ""
        request = {**self._options, "messages": self._messages}
        for piece in stream_answer(self._endpoint, request, self._key):
            answer += piece
            yield piece
        self._messages.append({"role": "assistant", "content": answer})


def stream_answer(endpoint: str, request: dict[str, Any], key: str | None = None) -> Iterator[str]:
    """Yield the pieces of an answer.

    Args:
        endpoint: base URL without `/v1`.
        request: body of a chat completion; streaming is switched on.
        key: API key, where tenants are known.

    Raises:
        ChatError: refused, unreachable, or not finished.
    """
    body = {**request, "stream": True}
    timeout = httpx.Timeout(5.0, read=300.0)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with (
            httpx.Client(trust_env=False, timeout=timeout, headers=headers) as client,
            client.stream("POST", f"{endpoint}/v1/chat/completions", json=body) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise ChatError(_message(answer))
            yield from _pieces(answer)
    except httpx.HTTPError as error:
        raise ChatError(f"{endpoint}: {error}") from error


def _pieces(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        event = json.loads(data)
        if error := event.get("error"):
            raise ChatError(error["message"])
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text
    raise ChatError("the answer broke off before its end")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:200]}"
