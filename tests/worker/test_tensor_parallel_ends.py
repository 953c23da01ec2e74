"""How an engine of two ranks ends: when told to, when killed, or when one of them fails."""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from itertools import repeat
from pathlib import Path

import msgspec
import pytest
from child_engine import Process
from engines import GREEDY
from torch.distributed.distributed_c10d import _set_pg_timeout
from waiting import PATIENCE
from worker_process import eventually

from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.execution import execution_config
from penstock_worker.messages import AddRequest, Batch, Failed, FinishReason, Ready, Stop
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch as Step
from penstock_worker.tensor_parallel import rank_process
from penstock_worker.tensor_parallel.group import RankLost
from penstock_worker.tensor_parallel.leading import lead
from penstock_worker.tensor_parallel.messages import Sized
from penstock_worker.tensor_parallel.rank_config import Meeting, RankConfig
from penstock_worker.tensor_parallel.ranks import Ranks

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"

MEETING = Meeting("127.0.0.1", 1, patience=PATIENCE, silence=PATIENCE, loading=PATIENCE)
"""That nobody comes to."""


def config(ranks: int = 2) -> EngineConfig:
    return EngineConfig(
        model=str(EXAMPLE), device="cpu", kernels="torch", threads=2, tensor_parallel_size=ranks
    )


@pytest.fixture
def process() -> Iterator[Process]:
    found = Process(config())
    assert isinstance(found.event(), Ready)
    yield found
    found.close()


def other_rank(process: Process) -> int:
    """Return the process id of rank 1."""
    children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
    (child,) = children.read_text().split()
    return int(child)


def is_running(pid: int) -> bool:
    """Whether a process is there; one that nobody has waited for yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_rank_that_dies_in_a_step_ends_the_engine_by_name(process: Process) -> None:
    # So many that they are not done before the signal comes.
    names = map(str, range(32))
    process.send(*(AddRequest(id=n, prompt=[5], max_tokens=900, sampling=GREEDY) for n in names))
    next(e for e in iter(process.event, None) if isinstance(e, Batch) and e.outputs)
    os.kill(other_rank(process), signal.SIGKILL)
    events = list(iter(process.event, None))
    last = [o for e in events if isinstance(e, Batch) for o in e.outputs][-1]
    assert last.finish_reason is FinishReason.ABORT
    assert "rank 1 of 2 was ended by SIGKILL" in last.error
    assert isinstance(events[-1], Failed)
    assert "rank 1 of 2 was ended by SIGKILL, which the kernel sends" in events[-1].message
    assert process.close() == 1


def test_a_rank_that_dies_while_nothing_is_asked_ends_the_engine(process: Process) -> None:
    os.kill(other_rank(process), signal.SIGKILL)
    last = [*iter(process.event, None)][-1]
    assert isinstance(last, Failed)
    assert "rank 1 of 2 was ended by SIGKILL" in last.message
    assert process.process.wait(timeout=PATIENCE) == 1


def test_no_rank_outlives_an_engine_that_is_killed(process: Process) -> None:
    process.send(AddRequest(id="a", prompt=[5], max_tokens=900, sampling=GREEDY))
    rank = other_rank(process)
    process.process.kill()
    eventually(lambda: not is_running(rank), "the other rank has ended")


def test_an_engine_that_is_told_to_end_takes_its_ranks_along(process: Process) -> None:
    rank = other_rank(process)
    process.send(Stop())
    assert process.process.wait(timeout=PATIENCE) == 0
    assert not is_running(rank)


def test_a_rank_that_hangs_is_given_up() -> None:
    found = config()
    shape = read_config(EXAMPLE)
    model, _, _ = lead(found, shape, execution_config(found, shape), 256)
    _set_pg_timeout(timedelta(seconds=1))  # now that both are there
    (rank,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[-1:]
    os.kill(int(rank), signal.SIGSTOP)
    with pytest.raises(RankLost, match="do not answer each other"):
        model.greedy(Step([5], [0], [], [0]))
    model.close()
    assert not is_running(int(rank))


def test_a_rank_that_is_silent_is_lost_although_nothing_is_computed() -> None:
    found = config()
    shape = read_config(EXAMPLE)
    model, _, _ = lead(found, shape, execution_config(found, shape), 256, silence=4.0)
    (rank,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[-1:]
    os.kill(int(rank), signal.SIGSTOP)
    with pytest.raises(RankLost, match=r"rank 1 of 2 has given no sign of life for 4 s"):
        deque(map(model.copy, repeat(0), repeat(1)), 0)  # until its buffer is full, and on
    model.close()
    assert not is_running(int(rank))


def test_what_keeps_a_rank_from_starting_is_told(tmp_path: Path) -> None:
    ranks = Ranks(EngineConfig(model=str(tmp_path), tensor_parallel_size=2), MEETING, {})
    try:
        with pytest.raises(RankLost, match=r"rank 1 of 2 failed: UnsupportedModel: .*config\.json"):
            ranks.hear(Sized)
    finally:
        ranks.close()


def test_a_rank_that_cannot_read_an_order_ends() -> None:
    ours, theirs = socket.socketpair()
    rank = RankConfig(config(), 1, MEETING, MEETING.host)
    text = msgspec.json.encode(rank).decode()
    command = [sys.executable, "-m", rank_process.__name__, str(theirs.fileno()), text]
    pipe, fd = subprocess.PIPE, theirs.fileno()
    with ours, theirs, subprocess.Popen(command, stdin=pipe, pass_fds=[fd]) as process:
        ours.sendall(b"\x01\0\0\0\xc1")  # a byte that no msgpack begins with
        try:
            assert process.wait(timeout=PATIENCE) == 0
        finally:
            process.kill()


def test_too_many_ranks_are_refused_before_any_is_started() -> None:
    with pytest.raises(ValueError, match=r"--tensor-parallel-size 3 .*num_attention_heads"):
        build_engine(config(3))
