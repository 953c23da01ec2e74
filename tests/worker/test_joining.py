"""How ranks of other nodes join rank 0: who is let in, who is not, and what both sides are told.

Real sockets over loopback; whole workers are in worker_server/test_nodes.
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from ports import free_port
from waiting import PATIENCE
from worker_process import eventually

from penstock_contract.worker_token import WorkerTokens
from penstock_worker.engine_config import EngineConfig, GroupConfig
from penstock_worker.tensor_parallel import joining
from penstock_worker.tensor_parallel.gathering import Gathered, gather
from penstock_worker.tensor_parallel.joining import (
    Challenge,
    Hello,
    Join,
    Message,
    Parked,
    Refused,
    RefusedError,
    admit,
    hear,
    introduce,
    send,
)
from penstock_worker.tensor_parallel.link import Link
from penstock_worker.tensor_parallel.messages import Alive, Leaving, RankFailed, Sized
from penstock_worker.tensor_parallel.rank_config import Meeting
from penstock_worker.tensor_parallel.terms import difference
from penstock_worker.transfer.handshake import prove
from penstock_worker.wire import encode

NEW, OLD = "a token of sixteen", "another of sixteen"
NOBODY = WorkerTokens()
TERMS = {"--dtype": "float32", "torch": "2.13.0"}
RANKS = range(2, 4)


class Leader:
    """Rank 0's end of a connection, in a thread; `outcome` is what came of it."""

    def __init__(self, connection: socket.socket, tokens: WorkerTokens) -> None:
        self.outcome: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._admit, args=(connection, tokens), daemon=True).start()

    def _admit(self, connection: socket.socket, tokens: WorkerTokens) -> None:
        with connection:
            try:
                self.outcome.put(admit(connection, tokens, TERMS, RANKS))
            except (RefusedError, OSError) as error:
                self.outcome.put(error)


@contextlib.contextmanager
def talking_to(*tokens: str) -> Iterator[tuple[socket.socket, Leader]]:
    """Yield a connection to a rank 0 that has these tokens."""
    ours, theirs = socket.socketpair()
    with ours:
        yield ours, Leader(theirs, WorkerTokens(tokens))


@pytest.mark.parametrize("theirs", [(NEW,), (OLD, NEW), (NEW, OLD)])
def test_who_knows_the_token_is_parked(theirs: tuple[str, ...]) -> None:
    with talking_to(*theirs) as (connection, leader):
        introduce(connection, WorkerTokens((NEW, OLD)), 2, TERMS)
        assert leader.outcome.get() == 2


def test_without_tokens_nobody_has_to_know_one() -> None:
    with talking_to() as (connection, leader):
        introduce(connection, NOBODY, 3, TERMS)
        assert leader.outcome.get() == 3


@pytest.mark.parametrize(("ours", "theirs"), [((OLD,), (NEW,)), ((), (NEW,)), ((NEW,), ())])
def test_both_sides_say_that_a_token_is_missing(
    ours: tuple[str, ...], theirs: tuple[str, ...]
) -> None:
    with talking_to(*theirs) as (connection, leader):
        with pytest.raises(RefusedError, match="does not know the worker token"):
            introduce(connection, WorkerTokens(ours), 2, TERMS)
        assert "does not know the worker token" in str(leader.outcome.get())


def challenged(connection: socket.socket) -> Challenge:
    """Begin as a rank does; return what rank 0 asks."""
    send(connection, Hello(bytes(16)))
    found = answer(connection)
    assert isinstance(found, Challenge)
    return found


def answer(connection: socket.socket) -> Message:
    return hear(connection, time.monotonic() + PATIENCE)


@pytest.mark.parametrize("repeat", ["another conversation's", "rank 0's own"])
def test_no_proof_serves_twice(repeat: str) -> None:
    with talking_to(NEW) as (connection, _):
        first = challenged(connection)
    with talking_to(NEW) as (connection, leader):
        second = challenged(connection)
        known = prove(WorkerTokens((NEW,)), joining.FOLLOWER, bytes(16), first.nonce)
        proof = known if repeat.startswith("another") else second.proof
        send(connection, Join(proof, 2, TERMS))
        assert isinstance(answer(connection), Refused)
        assert isinstance(leader.outcome.get(), RefusedError)


def test_what_differs_is_named_on_both_sides() -> None:
    with talking_to(NEW) as (connection, leader):
        with pytest.raises(RefusedError, match="--dtype is float32 at node 0 and bfloat16 at"):
            introduce(connection, WorkerTokens((NEW,)), 2, {**TERMS, "--dtype": "bfloat16"})
        assert "--dtype is float32 at node 0 and bfloat16" in str(leader.outcome.get())


def test_terms_that_one_side_does_not_know_differ() -> None:
    assert difference(TERMS, TERMS) == ""
    assert "torch is 2.13.0 at node 0 and None" in difference(TERMS, {"--dtype": "float32"})
    assert "new is None at node 0 and 1" in difference(TERMS, {**TERMS, "new": "1"})


def test_a_rank_that_no_other_node_has_is_refused() -> None:
    with talking_to(NEW) as (connection, _), pytest.raises(RefusedError, match="rank 1 is not"):
        introduce(connection, WorkerTokens((NEW,)), 1, TERMS)


@pytest.mark.parametrize(
    "said",
    [
        encode(Alive()),
        encode(Join(b"", 2, TERMS)),
        b"\x01\0\0\0\xc1",  # a byte that no msgpack begins with
        b"\xff\xff\xff\x7f",  # two gigabytes
        encode(Hello(b"short")),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_who_says_something_else_is_refused(said: bytes) -> None:
    with talking_to(NEW) as (connection, leader):
        connection.sendall(said)
        assert isinstance(leader.outcome.get(), RefusedError)


def test_what_follows_a_message_is_left_for_whoever_reads_on() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(encode(Parked()) + encode(Alive()))
        assert answer(ours) == Parked()
        assert ours.recv(100) == encode(Alive())


@contextlib.contextmanager
def gathering() -> Iterator[tuple[tuple[str, int], queue.SimpleQueue[Gathered]]]:
    """Yield where the first of two nodes waits for the two ranks of the other, and what comes."""
    address = ("127.0.0.1", free_port())
    config = EngineConfig(
        model="m", tensor_parallel_size=4, group=GroupConfig(2, 0, address[0], address[1])
    )
    found: queue.SimpleQueue[Gathered] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: found.put(gather(config, TERMS, NOBODY)), daemon=True)
    thread.start()
    yield address, found
    thread.join(timeout=PATIENCE)
    assert not thread.is_alive()


def joined(address: tuple[str, int], rank: int) -> socket.socket:
    """Return the connection of a rank that has joined."""
    connections: list[socket.socket] = []

    def connected() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            connections.append(socket.create_connection(address))
        return bool(connections)

    eventually(connected, "node 0 listens")
    introduce(connections[0], NOBODY, rank, TERMS)
    return connections[0]


def test_who_goes_before_all_are_there_is_waited_for_again() -> None:
    with gathering() as (address, found):
        joined(address, 2).close()
        with joined(address, 3) as third:
            assert answer(third) == Parked()  # it waits for the other one
            assert found.empty()
            with joined(address, 2) as second:
                host, ranks = found.get(timeout=PATIENCE)
                assert host == "127.0.0.1"
                assert {rank: one.connection.getpeername() for rank, one in ranks.items()} == {
                    2: second.getsockname(),
                    3: third.getsockname(),
                }
                for one in ranks.values():
                    one.connection.close()


def test_who_comes_again_takes_its_own_place() -> None:
    with gathering() as (address, found), joined(address, 2) as before:
        assert answer(before) == Parked()  # it has its place
        with joined(address, 2) as again, joined(address, 3):
            ranks = found.get(timeout=PATIENCE).joined
            assert ranks[2].connection.getpeername() == again.getsockname()
            for one in ranks.values():
                one.connection.close()


def test_a_link_tells_what_it_hears_and_how_it_ends() -> None:
    ours, theirs = socket.socketpair()
    ended: queue.SimpleQueue[Link] = queue.SimpleQueue()
    leaving: queue.SimpleQueue[Link] = queue.SimpleQueue()
    meeting = Meeting("127.0.0.1", 1, patience=PATIENCE, silence=PATIENCE, loading=PATIENCE)
    with theirs:
        link = Link("rank 2 of 4, on node 1", ours, meeting, ended.put, leaving.put)
        for report in (Alive(), Sized(7, "float32 on cpu"), Leaving(), RankFailed("no room")):
            theirs.sendall(encode(report))
        assert leaving.get(timeout=PATIENCE) is link
        assert ended.get(timeout=PATIENCE) is link
    assert link.reports.get() == Sized(7, "float32 on cpu")
    assert link.reports.get() is None
    assert link.end == "rank 2 of 4, on node 1 failed: no room"
    link.close(1.0)


@pytest.mark.parametrize("said", [b"\x01\0\0\0\xc1", b"\xff\xff\xff\x7f"])
def test_a_link_ends_when_what_it_hears_is_no_report_or_too_long(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    ended: queue.SimpleQueue[Link] = queue.SimpleQueue()
    meeting = Meeting("127.0.0.1", 1, patience=PATIENCE, silence=PATIENCE, loading=PATIENCE)
    with theirs:
        link = Link("rank 2 of 4, on node 1", ours, meeting, ended.put, ended.put)
        theirs.sendall(said)
        assert ended.get(timeout=PATIENCE) is link
    assert "said what nobody can read" in link.end
    link.close(1.0)


def test_a_link_that_is_silent_has_ended() -> None:
    ours, theirs = socket.socketpair()
    ended: queue.SimpleQueue[Link] = queue.SimpleQueue()
    meeting = Meeting("127.0.0.1", 1, patience=PATIENCE, silence=PATIENCE, loading=0.2)
    with theirs:
        link = Link("rank 2 of 4, on node 1", ours, meeting, ended.put, ended.put)
        assert ended.get(timeout=PATIENCE) is link
        assert link.end.endswith("has given no sign of life for 0.2 s")
        assert theirs.recv(1) == b""  # it is told
    link.close(1.0)
