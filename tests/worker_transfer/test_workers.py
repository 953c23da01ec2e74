"""Real workers over HTTP: a prompt computed by one is answered by another, whatever breaks."""

import asyncio
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import plain_http
import pytest
from fake_engine import FakeEngineClient
from ports import free_port
from tcp_faults import BrokenAnswers
from waiting import PATIENCE
from worker_process import EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

from penstock_contract import headers
from penstock_contract.handoff import FIELD, LEASES_PATH, PREFILL, PullOutcome, TransferParams
from penstock_contract.worker_token import WorkerTokens
from penstock_worker.messages import AddRequest

TRUSTED = {headers.HANDOFF: "1"}
TRANSFER = ("--kv-transfer", "127.0.0.1:0", "--no-self-benchmark")
PULLS = "penstock_worker_kv_pulls_total"
LEASES = "penstock_worker_kv_leases_total"
STEP_TOKENS = "penstock_worker_step_tokens_total"
LEASED = "penstock_worker_kv_leased_blocks"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def prompt(number: int, length: int = 333) -> list[int]:
    """Return a prompt that begins like no other one, so that no test finds another one's cache."""
    return [100 + number, *((11 * i * i + number) % 4000 + 3 for i in range(length - 1))]


def completion(number: int, **options: Any) -> dict[str, Any]:
    body = {"model": NAME, "prompt": prompt(number), "max_tokens": 24, "ignore_eos": True}
    return {**body, "temperature": 0, **options}


def ask(
    found: WorkerProcess, body: dict[str, Any], params: Any = None, token: str = ""
) -> dict[str, Any]:
    if params is not None:
        body = {**body, FIELD: params}
    shown = dict(WorkerTokens((token,)).headers()) if token else {}
    answer = plain_http.post(f"{found.url}/v1/completions", json=body, headers={**TRUSTED, **shown})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@contextlib.contextmanager
def begun(found: WorkerProcess, body: dict[str, Any]) -> Iterator[None]:
    """Ask, and leave at the block's end without an answer."""
    where = urlsplit(found.url)
    request = httpx.Request("POST", f"{found.url}/v1/completions", json=body, headers=TRUSTED)
    head = b"".join(b"%b: %b\r\n" % header for header in request.headers.raw)
    with socket.create_connection(("127.0.0.1", where.port or 0)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\n" + head + b"\r\n" + request.content)
        yield


def prefill(found: WorkerProcess, body: dict[str, Any]) -> Any:
    """Return what the prefill worker says of the blocks that it keeps; None when it keeps none."""
    return ask(found, {**body, "max_tokens": 1}, PREFILL).get(FIELD)


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


@contextlib.contextmanager
def ready(log: Path, *arguments: str, token: str = "") -> Iterator[WorkerProcess]:
    with worker(log, *arguments, token=token) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with ready(tmp_path_factory.mktemp("decode") / "log", *TRANSFER) as found:
        yield found


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A prefill worker that no test harms; it also says what one worker alone would answer."""
    with ready(tmp_path_factory.mktemp("prefill") / "log", *TRANSFER) as found:
        yield found


class Outcomes:
    """How many pulls of a worker ended so, since this was made."""

    def __init__(self, found: WorkerProcess) -> None:
        self._found = found
        self._before = dict(self._counts())

    def now(self) -> dict[str, float]:
        counts = self._counts()
        return {k: v - self._before[k] for k, v in counts.items() if v != self._before[k]}

    def _counts(self) -> dict[str, float]:
        return {str(one): self._found.metric(PULLS, outcome=str(one)) for one in PullOutcome}


def nothing_is_left(*workers: WorkerProcess) -> None:
    for found in workers:
        eventually(found.is_idle, "no block is in use")
        assert found.metric(LEASED) == 0


@pytest.mark.parametrize("choices", [1, 3])
@pytest.mark.parametrize("temperature", [0, 1])
def test_an_answer_is_that_of_one_worker(
    decode: WorkerProcess, other: WorkerProcess, temperature: int, choices: int
) -> None:
    body = completion(temperature + choices, temperature=temperature, seed=5, n=choices)
    outcomes = Outcomes(decode)
    answer = ask(decode, body, prefill(other, {**body, "n": 1}))
    assert outcomes.now() == {"complete": 1}
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert answer["choices"] == ask(other, body)["choices"]
    nothing_is_left(decode, other)


def test_what_is_handed_over_may_have_come_from_a_tier(
    tmp_path: Path, other: WorkerProcess
) -> None:
    small = ("--kv-cache-memory", "5Mi", "--max-model-len", "512")
    tier = ("--kv-tier-disk", str(tmp_path / "kv"))
    with (
        ready(tmp_path / "one", *TRANSFER, *small, *tier) as first,
        ready(tmp_path / "two", *TRANSFER, *small, *tier) as second,
    ):
        for number in range(20, 28):  # more than memory holds
            ask(first, completion(number))
        loaded = first.metric("penstock_worker_kv_tier_hits_total")
        params = prefill(first, completion(20))
        assert params["penstock_cached_tokens"] == 320
        assert first.metric("penstock_worker_kv_tier_hits_total") == loaded + 320
        assert text(ask(second, completion(20), params)) == text(ask(other, completion(20)))
        nothing_is_left(first, second)


def test_a_draft_computes_itself_what_was_handed_over(other: WorkerProcess, tmp_path: Path) -> None:
    guess = ("--speculative", "draft", "--speculative-model", str(EXAMPLE_MODEL))
    with ready(tmp_path / "log", *TRANSFER, *guess) as found:
        body = completion(77)
        outcomes = Outcomes(found)
        answer = ask(found, body, prefill(other, body))
        assert outcomes.now() == {"complete": 1}
        assert answer["choices"] == ask(other, body)["choices"]
        guessed = found.metric("vllm:spec_decode_num_draft_tokens_total")
        assert found.metric("vllm:spec_decode_num_accepted_tokens_total") == guessed > 12
        nothing_is_left(found, other)


def test_a_stream_is_that_of_one_worker(decode: WorkerProcess, other: WorkerProcess) -> None:
    messages = [{"role": "user", "content": "What is a list? " * 30}]
    body = {"model": NAME, "messages": messages, "max_tokens": 32, "stream": True}
    body |= {"temperature": 0, "stream_options": {"include_usage": True}}
    first = {**body, "stream": False, "stream_options": None, "max_tokens": 1, FIELD: PREFILL}
    post: dict[str, Any] = {"headers": TRUSTED}
    told = plain_http.post(f"{other.url}/v1/chat/completions", json=first, **post).json()[FIELD]
    outcomes = Outcomes(decode)
    pulled = plain_http.post(
        f"{decode.url}/v1/chat/completions", json={**body, FIELD: told}, **post
    ).text
    alone = plain_http.post(f"{other.url}/v1/chat/completions", json=body, **post).text
    assert outcomes.now() == {"complete": 1}
    assert deltas(pulled) == deltas(alone)
    nothing_is_left(decode, other)


def deltas(stream: str) -> list[Any]:
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event)["choices"] for event in events]


def test_without_the_gateways_header_nothing_is_handed_over(other: WorkerProcess) -> None:
    body = {**completion(10), FIELD: PREFILL}
    granted = other.metric(LEASED)
    answer = plain_http.post(f"{other.url}/v1/completions", json=body)
    assert answer.status_code == 200
    assert FIELD not in answer.json()
    assert other.metric(LEASED) == granted


def test_blocks_of_another_kind_of_worker_are_not_asked_for(
    decode: WorkerProcess, other: WorkerProcess
) -> None:
    body = completion(11)
    params = {**PREFILL, "do_remote_prefill": True, "do_remote_decode": False}
    params |= {"remote_engine_id": "vllm", "remote_block_ids": [[1, 2]], "remote_host": "10.0.0.1"}
    params |= {"remote_port": 5600, "remote_request_id": "cmpl-1", "tp_size": 1}
    outcomes = Outcomes(decode)
    assert text(ask(decode, body, params)) == text(ask(other, body))
    assert outcomes.now() == {"unusable": 1}


def test_a_lease_is_given_back(decode: WorkerProcess, other: WorkerProcess) -> None:
    body = completion(12)
    told = prefill(other, body)
    assert other.metric(LEASED) == 20
    for _ in range(2):
        gone = plain_http.delete(other.url + LEASES_PATH + told["remote_request_id"])
        assert gone.status_code == 204
    eventually(lambda: other.metric(LEASED) == 0, "its blocks are free")
    outcomes = Outcomes(decode)
    assert text(ask(decode, body, told)) == text(ask(other, body))
    assert outcomes.now() == {"stale": 1}
    nothing_is_left(decode, other)


def test_a_client_that_leaves_ends_the_pull_and_the_lease(
    decode: WorkerProcess, other: WorkerProcess
) -> None:
    body = completion(13)
    told = prefill(other, body)
    outcomes = Outcomes(decode)
    leave = threading.Event()
    with BrokenAnswers(told["remote_port"], stall_after=1000, then=leave.set) as proxy:
        told["remote_port"] = proxy.port
        with begun(decode, {**body, FIELD: told}):
            assert leave.wait(PATIENCE)
        eventually(lambda: outcomes.now() == {"cancelled": 1}, "the pull is cancelled")
        nothing_is_left(decode, other)


def test_a_prefill_worker_killed_amid_the_transfer(
    decode: WorkerProcess, other: WorkerProcess, tmp_path: Path
) -> None:
    body, outcomes = completion(14), Outcomes(decode)
    with ready(tmp_path / "log", *TRANSFER) as victim:
        told = prefill(victim, body)
        with BrokenAnswers(
            told["remote_port"], stall_after=200_000, then=partial(victim.send, signal.SIGKILL)
        ) as proxy:
            told["remote_port"] = proxy.port
            assert text(ask(decode, body, told)) == text(ask(other, body))
        assert victim.wait() == -signal.SIGKILL
    assert outcomes.now() == {"lost": 1}
    nothing_is_left(decode)


def test_a_prefill_worker_that_has_restarted(
    decode: WorkerProcess, other: WorkerProcess, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    body, outcomes = completion(15), Outcomes(decode)
    with ready(tmp_path / "first", "--kv-transfer", address, "--no-self-benchmark") as first:
        told = prefill(first, body)
        first.send(signal.SIGKILL)
    with ready(tmp_path / "second", "--kv-transfer", address, "--no-self-benchmark") as second:
        assert prefill(second, body)["penstock_epoch"] != told["penstock_epoch"]
        assert text(ask(decode, body, told)) == text(ask(other, body))
    assert outcomes.now() == {"stale": 1}
    nothing_is_left(decode)


@pytest.mark.parametrize(
    ("token", "outcome"),
    [("token-of-these-workers", PullOutcome.COMPLETE), ("another-worker-token", "stranger")],
)
def test_kv_goes_to_workers_that_know_the_token_only(
    tmp_path: Path, other: WorkerProcess, token: str, outcome: str
) -> None:
    own = "token-of-these-workers"
    with (
        ready(tmp_path / "prefill.log", *TRANSFER, token=own) as first,
        ready(tmp_path / "decode.log", *TRANSFER, token=token) as second,
    ):
        pulls, body = Outcomes(second), completion(90)
        kept = ask(first, {**body, "max_tokens": 1}, PREFILL, own)[FIELD]
        assert text(ask(second, body, kept, token)) == text(ask(other, body))
        assert pulls.now() == {outcome: 1}
        pulled = outcome == PullOutcome.COMPLETE
        assert (second.metric("penstock_worker_kv_pulled_bytes_total") > 0) == pulled
        # The holder hears of it beside the answer.
        eventually(lambda: first.metric(LEASES, outcome="pulled") == pulled, "it is counted")


def test_a_worker_without_a_token_is_a_stranger_to_those_that_have_one(
    tmp_path: Path, decode: WorkerProcess, other: WorkerProcess
) -> None:
    own = "token-of-these-workers"
    with ready(tmp_path / "prefill.log", *TRANSFER, token=own) as first:
        pulls, body = Outcomes(decode), completion(91)
        kept = ask(first, {**body, "max_tokens": 1}, PREFILL, own)[FIELD]
        assert text(ask(decode, body, kept)) == text(ask(other, body))
        assert pulls.now() == {PullOutcome.STRANGER: 1}
        assert first.metric(LEASES, outcome="pulled") == 0


def test_a_transfer_that_takes_longer_than_the_lease(
    decode: WorkerProcess, other: WorkerProcess
) -> None:
    body, outcomes = completion(16), Outcomes(decode)
    told = prefill(other, body)
    with BrokenAnswers(told["remote_port"], stall_after=100_000) as proxy:
        # Who pulls counts from when it is asked, and this is shorter than how long it is kept.
        told |= {"remote_port": proxy.port, "penstock_lease_seconds": 3.0}
        assert text(ask(decode, body, told)) == text(ask(other, body))
        assert outcomes.now() == {"late": 1}
        nothing_is_left(decode, other)


def test_a_lease_that_nobody_wants_runs_out(tmp_path: Path) -> None:
    with ready(tmp_path / "log", *TRANSFER, "--kv-transfer-lease", "1s") as found:
        assert prefill(found, completion(17)) is not None
        eventually(lambda: found.metric(LEASES, outcome="expired") == 1, "it runs out")
        nothing_is_left(found)


def test_leases_take_no_more_than_half_of_the_blocks(tmp_path: Path) -> None:
    # 98,304 bytes a block of 16 tokens: 64 blocks, and 20 for each of these prompts.
    small = ("--dtype", "float32", "--kv-cache-memory", str(64 * 98_304))
    with ready(tmp_path / "log", *TRANSFER, *small) as found:
        told = prefill(found, completion(18))
        assert prefill(found, completion(19)) is None
        assert found.metric(LEASES, outcome="refused") == 1
        assert found.metric(LEASED) == 20
        plain_http.delete(found.url + LEASES_PATH + told["remote_request_id"])
        eventually(lambda: found.metric(LEASED) == 0, "its blocks are free")
        assert prefill(found, completion(20)) is not None


@pytest.mark.anyio
async def test_blocks_for_an_answer_that_nobody_reads_are_given_back() -> None:
    client = FakeEngineClient()
    await client.start()
    client.engine.ready(vocab_size=512)
    kept = TransferParams(do_remote_prefill=True, remote_request_id="lease").model_dump()
    client.engine.put_kept(AddRequest("gone", [1], max_tokens=1), kept)
    assert await asyncio.wait_for(client.engine.released.get(), PATIENCE) == "lease"
    await client.engine.close()
    await client.stop()


def test_a_draining_worker_waits_for_its_leases(
    decode: WorkerProcess, other: WorkerProcess, tmp_path: Path
) -> None:
    body, outcomes = completion(21), Outcomes(decode)
    with ready(tmp_path / "log", *TRANSFER) as leaving:
        told = prefill(leaving, body)
        leaving.send(signal.SIGTERM)
        eventually(lambda: leaving.health() == (503, "draining"), "it drains")
        assert text(ask(decode, body, told)) == text(ask(other, body))
        assert outcomes.now() == {"complete": 1}
        assert leaving.wait() == 0


def test_a_draining_worker_waits_no_longer_than_its_grace(tmp_path: Path) -> None:
    with ready(tmp_path / "log", *TRANSFER, "--drain-timeout", "1s") as leaving:
        assert prefill(leaving, completion(22)) is not None
        leaving.send(signal.SIGTERM)
        assert leaving.wait() == 0


def test_an_engine_without_names_hands_nothing_over(tmp_path: Path) -> None:
    with worker(tmp_path / "log", *TRANSFER, "--no-enable-prefix-caching") as found:
        assert found.wait() == 1
    assert "--kv-transfer needs --enable-prefix-caching" in found.log.read_text()


def test_simulated_workers_hand_over_in_the_time_it_would_take(tmp_path: Path) -> None:
    # 333 tokens are 20 blocks, of 49,152 bytes each in bfloat16: half a second.
    sim = ("--runner", "sim", "--kv-transfer", "127.0.0.1:0", "--sim-kv-bandwidth", "1966080")
    with ready(tmp_path / "a", *sim) as first, ready(tmp_path / "b", *sim) as second:
        body = completion(23)
        told, before = prefill(first, body), second.metric(STEP_TOKENS, kind="prefill")
        assert text(ask(second, body, told)) == text(ask(first, body))
        assert second.metric(PULLS, outcome="complete") == 1
        assert second.metric("penstock_worker_kv_pull_seconds_total") >= 0.5
        assert second.metric(STEP_TOKENS, kind="prefill") == before + 13
        nothing_is_left(first, second)
