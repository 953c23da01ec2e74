"""The process of a rank other than the first.

The engine, or on another node its follower, starts it as
`python -m penstock_worker.tensor_parallel.rank_process FD CONFIG`, where FD is a connection to rank
0 and CONFIG a `RankConfig` as JSON. It computes what it is told to and ends when that connection
does, or is silent for too long, whatever it is doing then. It also ends when its standard input
does, so it outlives neither the engine nor the follower; a line there lets it tell rank 0 that its
node is about to go.
"""

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from penstock_worker.tensor_parallel.messages import (
    BEAT_SECONDS,
    MAX_ORDER,
    REASON_CHARACTERS,
    Alive,
    Forward,
    Leaving,
    Order,
    RankFailed,
    Report,
)
from penstock_worker.tensor_parallel.rank_config import RankConfig
from penstock_worker.wire import Decoder, encode, receive

Orders = queue.SimpleQueue[Order]
Tell = Callable[[Report], None]


def main() -> None:
    """Run a rank; the arguments are a file descriptor and a RankConfig."""
    # Who ends the engine ends its ranks: a terminal's Ctrl-C goes to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    config = msgspec.json.decode(sys.argv[2].encode(), type=RankConfig)
    connection.settimeout(config.meeting.loading)
    orders: Orders = queue.SimpleQueue()
    tell = _telling(connection)
    threading.Thread(
        target=_read, args=(connection, orders, config.meeting.silence), daemon=True
    ).start()
    threading.Thread(target=_beat, args=(tell,), daemon=True).start()
    threading.Thread(target=_heed, args=(tell,), daemon=True).start()
    status = _run(orders, tell, config)
    sys.stderr.flush()
    os._exit(status)  # what the interpreter tidies up may wait for ranks that never come


def _telling(connection: socket.socket) -> Tell:
    """Return what tells rank 0 something, from any thread."""
    lock = threading.Lock()

    def tell(what: Report) -> None:
        with lock:
            connection.sendall(encode(what))

    return tell


def _read(connection: socket.socket, orders: Orders, silence: float) -> None:
    """Queue what rank 0 says. When it has gone, end: a step may wait for it, and never return."""
    decoder: Decoder[Order] = Decoder(Order, MAX_ORDER)  # type: ignore[arg-type]
    try:
        while messages := receive(connection, decoder):
            for message in messages:
                if not isinstance(message, Alive):
                    orders.put(message)
                if isinstance(message, Forward):
                    connection.settimeout(silence)  # all have loaded
    except TimeoutError:
        sys.stderr.write("penstock-worker: rank 0 has said nothing for too long\n")
    except OSError:
        pass  # it has gone
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"penstock-worker: rank 0 said what nobody can read: {error}\n")
    sys.stderr.flush()
    os._exit(0)


def _beat(tell: Tell) -> None:
    """Give signs of life, whatever this process computes; `_read` notices when nobody hears."""
    with contextlib.suppress(OSError):
        while True:
            tell(Alive())
            time.sleep(BEAT_SECONDS)


def _heed(tell: Tell) -> None:
    """Do what the process says that started this one; end when it has."""
    with contextlib.suppress(OSError):
        while sys.stdin.buffer.readline():
            tell(Leaving())
    os._exit(0)


def _run(orders: Orders, tell: Tell, config: RankConfig) -> int:
    """Compute until that fails; return the exit status."""
    # torch takes a second to import: by now the end of rank 0 would be noticed.
    from penstock_worker.tensor_parallel.following import follow
    from penstock_worker.tensor_parallel.group import RankLost

    try:
        follow(config, orders.get, tell)
    except Exception as error:
        # The process ends here; rank 0 must learn why, whatever it was.
        lost = isinstance(error, RankLost)
        why = f"has lost the others: {error}" if lost else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"penstock-worker: rank {config.rank}: {why}\n")
        with contextlib.suppress(OSError):
            tell(RankFailed(why[:REASON_CHARACTERS], consequence=lost))
        return 1


if __name__ == "__main__":
    main()
