"""Another rank as rank 0 sees it: what it has said, and what became of it."""

import contextlib
import queue
import signal
import socket
import threading
from collections.abc import Callable
from enum import IntEnum

import msgspec

from penstock_worker.tensor_parallel.messages import (
    MAX_REPORT,
    Alive,
    Leaving,
    Loaded,
    RankFailed,
    Report,
)
from penstock_worker.tensor_parallel.rank_config import Meeting
from penstock_worker.tensor_parallel.starting import RankProcess
from penstock_worker.wire import Decoder, receive


class End(IntEnum):
    """How much is known of why a rank has ended; the first ones are more likely the cause."""

    REASON = 0
    """It has said why, or its process tells."""
    GONE = 1
    """Its connection has ended, or it was silent."""
    CONSEQUENCE = 2
    """It has lost others."""


class Link:
    """One rank other than the first.

    Args:
        name: for people.
        connection: to it; this object's own from now on.
        meeting: says after how long a silence it is lost.
        ended: called in another thread, once, when it has ended.
        leaving: called in another thread when its node was told to end.
        process: its process, if that is on this node.
    """

    def __init__(
        self,
        name: str,
        connection: socket.socket,
        meeting: Meeting,
        ended: Callable[["Link"], None],
        leaving: Callable[["Link"], None],
        process: RankProcess | None = None,
    ) -> None:
        self.name = name
        self.reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        """What it has said, but for signs of life; None: it has ended."""
        self.end = ""
        self.kind = End.REASON
        self.process = process
        self._connection = connection
        self._connection.settimeout(meeting.loading)
        self._sending = threading.Lock()
        self._silence = meeting.silence
        self._ended, self._leaving = ended, leaving
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def tell(self, data: bytes) -> None:
        """Send an encoded order.

        Raises:
            OSError: it has gone, or has not read for too long.
        """
        with self._sending:
            self._connection.sendall(data)

    def shut(self) -> None:
        """Let it end: it does when its connection does."""
        with contextlib.suppress(OSError):  # it may have gone already
            # Closing alone would not do: a thread of ours reads from it.
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self, patience: float) -> None:
        """Wait until it has ended, as far as that is known here; then by force."""
        if self.process is not None:
            self.process.close(patience)
        self._watching.join(patience)
        self._connection.close()

    def _watch(self) -> None:
        reason = self._read()
        self.shut()  # a thread that writes to it must not wait any longer
        if self.process is None:
            self.end = reason or "has gone: its connection has ended"
            self.kind = End.GONE if not reason else self.kind
        else:
            status = self.process.wait()
            self.end = reason or _described(status)
        self.end = f"{self.name} {self.end}"
        self.reports.put(None)
        self._ended(self)

    def _read(self) -> str:
        """Queue its reports until it has gone; return why, where that is known."""
        decoder: Decoder[Report] = Decoder(Report, MAX_REPORT)  # type: ignore[arg-type]
        try:
            while messages := receive(self._connection, decoder):
                for message in messages:
                    if isinstance(message, RankFailed):
                        self.kind = End.CONSEQUENCE if message.consequence else End.REASON
                        return f"failed: {message.message}"
                    self._take(message)
        except TimeoutError:
            self._kill()
            self.kind = End.GONE
            return f"has given no sign of life for {self._connection.gettimeout():g} s"
        except OSError:
            pass  # it has gone
        except msgspec.MsgspecError as error:
            self._kill()
            return f"said what nobody can read: {error}"
        return ""

    def _take(self, report: Report) -> None:
        match report:
            case Alive():
                pass
            case Leaving():
                self._leaving(self)
            case _:
                if isinstance(report, Loaded):
                    self._connection.settimeout(self._silence)
                self.reports.put(report)

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()


def _described(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was ended by SIGKILL, which the kernel sends where memory is short"
    if status < 0:
        return f"was ended by {signal.strsignal(-status) or f'signal {-status}'}"
    return f"has ended with status {status}"
