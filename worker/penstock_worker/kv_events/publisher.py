"""Publishes KV events over ZMQ and answers replays.

The engine's thread encodes and sends, which never blocks: a subscriber that is too slow misses
messages, sees the gap, and asks for a replay. Replays have a thread and a socket of their own.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

import zmq

from penstock_contract.kv_events.wire import (
    END,
    AllBlocksCleared,
    Batch,
    Encoding,
    Event,
    Topic,
    encode,
)
from penstock_worker.engine_config import KVEventsConfig

PATIENCE_MS = 1000
"""How long a replay waits for a peer to take a message."""


class Publisher:
    """The PUB and the ROUTER socket of one engine.

    Args:
        config: where and how.
        topic: who speaks.
        clock: Unix seconds.

    Raises:
        zmq.ZMQError: an address is taken or wrong.
    """

    def __init__(
        self, config: KVEventsConfig, topic: Topic, clock: Callable[[], float] = time.time
    ) -> None:
        self._context = zmq.Context()
        self._topic = topic.encode()
        self._encoding = Encoding(config.encoding)
        self._clock = clock
        self._number = 0
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=config.buffer)
        self._lock = threading.Lock()
        self._socket = _bound(self._context, zmq.PUB, config.endpoint, config.buffer)
        self._replaying: threading.Thread | None = None
        if config.replay_endpoint:
            router = _bound(self._context, zmq.ROUTER, config.replay_endpoint, config.buffer)
            self._replaying = threading.Thread(target=self._replay, args=(router,), daemon=True)
            self._replaying.start()
        self.publish([AllBlocksCleared()])

    def publish(self, events: list[Event]) -> None:
        """Send what one step changed; nothing for no changes."""
        if not events:
            return
        number = self._number.to_bytes(8, "big")
        payload = encode(Batch(self._clock(), events, 0), self._encoding)
        self._number += 1
        with self._lock:
            self._sent.append((number, payload))
        self._socket.send_multipart((self._topic, number, payload))

    def close(self) -> None:
        """Close the sockets; what was not delivered is lost, and so is this epoch."""
        self._socket.close(linger=0)
        self._context.term()  # wakes the thread and waits for its socket
        if self._replaying is not None:
            self._replaying.join()

    def _replay(self, router: "zmq.Socket[bytes]") -> None:
        # Wait for a slow peer, instead of dropping what it asked for, but not for long.
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        with router, contextlib.suppress(zmq.ContextTerminated):
            while True:
                peer, *request = router.recv_multipart()
                if len(request) == 2 and not request[0] and len(request[1]) == len(END):
                    # A peer that has gone, or takes nothing, needs no answer.
                    with contextlib.suppress(zmq.ZMQError):
                        self._answer(router, peer, request[1])

    def _answer(self, router: "zmq.Socket[bytes]", peer: bytes, start: bytes) -> None:
        with self._lock:
            known = list(self._sent)
        for number, payload in known:
            if number >= start:  # big-endian numbers sort as their bytes do
                router.send_multipart((peer, b"", self._topic, number, payload))
        router.send_multipart((peer, b"", b"", END, b""))


def _bound(
    context: "zmq.Context[zmq.Socket[bytes]]", kind: int, endpoint: str, queue: int
) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, queue)
    if endpoint.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)
    socket.bind(endpoint)
    return socket
