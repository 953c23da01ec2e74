"""Reading a streamed answer: text as it comes, the API's own words on errors, no silent cut."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from penstock_operator.local.chat import Chat, ChatError, choose_model
from penstock_operator.local.errors import UserError

Serve = Callable[[int, str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer every request with a status and a body; return the base URL."""
    servers: list[HTTPServer] = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def chunk(text: str) -> str:
    return f'data: {{"choices": [{{"delta": {{"content": "{text}"}}}}]}}\n\n'


def ask(url: str) -> list[str]:
    return list(Chat(url, {"model": "m"}).ask("Hi"))


def test_pieces_come_in_order(serve: Serve) -> None:
    assert ask(serve(200, chunk("a") + ": tokens\n\n" + chunk("b") + "data: [DONE]\n\n")) == [
        "a",
        "b",
    ]


def test_a_refusal_is_told_in_the_api_s_words(serve: Serve) -> None:
    with pytest.raises(ChatError, match="no such model"):
        ask(serve(404, '{"error": {"message": "no such model"}}'))


def test_an_error_inside_the_stream_is_told(serve: Serve) -> None:
    with pytest.raises(ChatError, match="worker died"):
        ask(serve(200, chunk("a") + 'data: {"error": {"message": "worker died"}}\n\n'))


def test_a_stream_without_its_end_is_an_error(serve: Serve) -> None:
    with pytest.raises(ChatError, match="broke off"):
        ask(serve(200, chunk("a")))


def test_an_endpoint_that_is_gone_is_an_error() -> None:
    with pytest.raises(ChatError, match=r"127\.0\.0\.1:9"):
        ask("http://127.0.0.1:9")


def test_the_only_model_needs_no_name() -> None:
    assert choose_model(["a"], None) == "a"
    assert choose_model(["a", "b"], "b") == "b"
    with pytest.raises(UserError, match="--model: a, b"):
        choose_model(["a", "b"], None)
