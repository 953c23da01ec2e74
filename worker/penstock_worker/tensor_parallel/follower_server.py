"""What a follower tells over HTTP: whether it lives, and whether it is in a group.

Nothing else is there, and nobody needs a token: kubelets ask.
"""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import msgspec

from penstock_contract.group import HEALTH_PATH, READY_PATH
from penstock_worker.tensor_parallel.follower import Follower

IDLE_SECONDS: Final = 10.0
"""For a request to come on a connection."""


def serve(follower: Follower, listener: socket.socket) -> None:
    """Answer in threads of their own, for as long as the process lives.

    Args:
        follower: of which is told.
        listener: bound.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_SECONDS
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            in_group = follower.in_group
            status = {HEALTH_PATH: 200, READY_PATH: 200 if in_group else 503}.get(self.path, 404)
            known = {"status": "in group" if in_group else "waiting", "detail": follower.state}
            body = msgspec.json.encode(known if status != 404 else {"status": "not found"})
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: probes come every few seconds."""

    server = ThreadingHTTPServer(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
