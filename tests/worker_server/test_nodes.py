"""One worker over several nodes: real processes on this machine, over loopback and HTTP.

Covered: the answers of one rank; a leader that comes late, is killed or drains; a follower that is
killed, told to end, or must not join. Not covered: GPUs, and networks of more than one machine.
"""

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
import tiny_models
from openai import APIError, OpenAI
from ports import free_port
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_contract.group import HEALTH_PATH, READY_PATH

PROMPT = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n"
TOKEN, OTHER_TOKEN = "a token of this group", "a token of another one"
EXACT = ("--kernels", "torch", "--dtype", "float32", "--device", "cpu")

Start = Callable[..., WorkerProcess]


class Group:
    """The nodes of one worker: each is started by itself, as a pod is.

    Args:
        folder: of their logs.
        nodes, ranks: so many.
        stack: ends them.
    """

    def __init__(self, folder: Path, nodes: int, ranks: int, stack: contextlib.ExitStack) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        self._sizes = ("--nodes", str(nodes), "--tensor-parallel-size", str(ranks), *EXACT)
        self._folder, self._stack = folder, stack
        self._started = 0

    def start(
        self, node: int, token: str = TOKEN, model: Path = EXAMPLE_MODEL, *more: str
    ) -> WorkerProcess:
        """Start a node; each gets a log of its own."""
        self._started += 1
        log = self._folder / f"node-{node}-{self._started}.log"
        place = ("--node-rank", str(node), "--group-address", self._address)
        return self._stack.enter_context(
            worker(log, *self._sizes, *place, *more, model=model, token=token)
        )


@pytest.fixture
def group_of(tmp_path: Path) -> Iterator[Callable[[int, int], Group]]:
    with contextlib.ExitStack() as stack:
        yield lambda nodes, ranks: Group(tmp_path, nodes, ranks, stack)


def answers(url: str, token: str = TOKEN) -> list[str]:
    """Return what greedy and drawn requests get."""
    asked: Any = {"model": NAME, "prompt": PROMPT, "max_tokens": 32, "seed": 7}
    with OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
        return [
            client.completions.create(**asked, temperature=temperature).choices[0].text
            for temperature in (0.0, 0.9, 0.0)
        ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a single worker of one rank answers."""
    with worker(tmp_path_factory.mktemp("alone") / "log", *EXACT, token=TOKEN) as alone:
        eventually(lambda: alone.health() == (200, "ok"), "the single worker is ready")
        return answers(alone.url)


def status(node: WorkerProcess, path: str) -> int:
    """Return what a follower answers; 0 while it does not."""
    assert node.process.poll() is None, node.log.read_text()
    try:
        return plain_http.get(f"{node.url}{path}").status_code
    except httpx.TransportError:
        return 0


def is_ready(leader: WorkerProcess) -> Callable[[], bool]:
    return lambda: leader.health() == (200, "ok")


def says(node: WorkerProcess, what: str) -> Callable[[], bool]:
    return lambda: what in node.log.read_text()


@contextlib.contextmanager
def streaming(url: str, tokens: int) -> Iterator[Any]:
    """Yield a stream that has begun."""
    with (
        OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client,
        client.completions.create(
            model=NAME, prompt="x", max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
        ) as stream,
    ):
        next(iter(stream))
        yield stream


def test_followers_wait_for_leaders_which_come_late_and_go(
    group_of: Callable[[int, int], Group], expected: list[str]
) -> None:
    group = group_of(2, 2)
    follower = group.start(1)
    eventually(lambda: status(follower, HEALTH_PATH) == 200, "the follower lives")
    eventually(says(follower, "waiting for node 0"), "it waits, and says so")
    assert status(follower, READY_PATH) == 503

    first = group.start(0)
    eventually(is_ready(first), "the group is ready")
    eventually(lambda: status(follower, READY_PATH) == 200, "the follower is in a group")
    assert answers(first.url) == expected

    first.send(signal.SIGKILL)
    eventually(lambda: status(follower, READY_PATH) == 503, "the follower waits again")
    second = group.start(0)
    eventually(is_ready(second), "another group is ready")
    assert answers(second.url) == expected

    follower.send(signal.SIGKILL)
    assert second.wait() == 1
    assert "rank 1 of 2, on node 1 at 127.0.0.1, has gone" in second.log.read_text()


def test_two_nodes_of_two_ranks_answer_as_one_rank_and_drain_together(
    group_of: Callable[[int, int], Group], expected: list[str]
) -> None:
    group = group_of(2, 4)
    leader, follower = group.start(0), group.start(1)
    eventually(is_ready(leader), "the group is ready")
    assert answers(leader.url) == expected

    with streaming(leader.url, 64) as stream:
        follower.send(signal.SIGTERM)  # as where both pods are deleted: in any order
        leader.send(signal.SIGTERM)
        assert [*stream][-1].choices[0].finish_reason == "length"
    assert leader.wait() == 0
    assert follower.wait() == 0


def test_a_follower_that_is_told_to_end_has_requests_handed_back(
    group_of: Callable[[int, int], Group],
) -> None:
    group = group_of(2, 2)
    leader, follower = group.start(0), group.start(1)
    eventually(is_ready(leader), "the group is ready")
    with streaming(leader.url, 1000) as stream:
        follower.send(signal.SIGTERM)
        with pytest.raises(APIError, match="continue on another one"):
            deque(stream, 0)
    assert leader.wait() == 0
    assert follower.wait() == 0
    assert "was told to end: this worker leaves with it" in leader.log.read_text()


def test_who_does_not_fit_is_refused_and_both_sides_say_why(
    group_of: Callable[[int, int], Group], tmp_path: Path
) -> None:
    group = group_of(2, 2)
    tiny_models.make("llama-gqa", tmp_path / "other")
    leader = group.start(0)
    stranger = group.start(1, token=OTHER_TOKEN)
    other = group.start(1, TOKEN, tmp_path / "other", "--max-model-len", "1024")
    for node in (stranger, leader):
        eventually(says(node, "does not know the worker token of this node"), "the token is told")
    for node in (other, leader):
        eventually(says(node, "--model (configuration and weights) is"), "the model is told")
    assert leader.health() == (503, "loading")
    leader.send(signal.SIGTERM)  # while it waits for others
    assert leader.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--nodes", "2"), "--nodes 2: give --tensor-parallel-size"),
        (("--nodes", "2", "--tensor-parallel-size", "2"), "--group-address"),
        (("--node-rank", "1"), "--node-rank 1: --nodes 1 has 0 to 0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    arguments: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    with worker(tmp_path / "log", *arguments) as found:
        assert found.wait() == 2
    assert named in found.log.read_text()
