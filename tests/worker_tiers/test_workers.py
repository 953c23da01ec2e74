"""Real workers whose prompts do not fit into memory: answers stay, and so do their blocks."""

import contextlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from tiered import files
from worker_process import NAME, WorkerProcess, eventually, worker

PROMPTS = range(12)
TOKENS = 700
HITS = "penstock_worker_kv_tier_hits_total"
CORRUPT = "penstock_worker_kv_tier_corrupt_blocks_total"
LOADS = "penstock_worker_kv_tier_loads_total"
BLOCKS = (TOKENS - 1) // 16


def ask(found: WorkerProcess, number: int, **options: Any) -> tuple[str, int]:
    """Return the answer to a prompt, and how many of its tokens were cached."""
    prompt = [100 + number, *((11 * i * i + number) % 4000 + 3 for i in range(TOKENS - 1))]
    body = {"model": NAME, "prompt": prompt, "max_tokens": 16, "ignore_eos": True, "seed": 3}
    answer = plain_http.post(f"{found.url}/v1/completions", json={**body, **options})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
    return told["choices"][0]["text"], cached


@contextlib.contextmanager
def small_worker(log: Path, folder: Path | None, *more: str) -> Iterator[WorkerProcess]:
    """Start a worker whose memory holds four of the prompts."""
    # Without a measured step every load pays, however busy the machine is.
    flags = ["--kv-cache-memory", "9Mi", "--max-model-len", "1024", "--no-self-benchmark"]
    if folder is not None:
        flags += ["--kv-tier-disk", str(folder), "--kv-tier-disk-capacity", "256Mi"]
    with worker(log, *flags, *more) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], str]:
    """What a worker without a tier answers, by prompt and temperature."""
    with small_worker(tmp_path_factory.mktemp("plain") / "log", None) as found:
        return {(n, t): ask(found, n, temperature=t)[0] for t in (0, 1) for n in PROMPTS}


def fill(found: WorkerProcess, folder: Path) -> None:
    """Ask for more than memory holds, and wait until what left it is on the disk."""
    for number in PROMPTS:
        ask(found, number, temperature=0)
    left = len(PROMPTS) * BLOCKS - found.metric("penstock_worker_kv_blocks")
    eventually(lambda: len(list(files(folder))) >= left, "what left memory is on the disk")


def test_answers_are_the_same_and_prompts_are_not_computed_again(
    tmp_path: Path, answers: dict[tuple[int, int], str]
) -> None:
    with small_worker(tmp_path / "log", tmp_path / "kv") as found:
        fill(found, tmp_path / "kv")
        for (number, temperature), text in answers.items():
            again, cached = ask(found, number, temperature=temperature)
            assert again == text
            assert cached >= BLOCKS * 16 - 64 or not temperature
        assert found.metric(HITS) > TOKENS * len(PROMPTS)
        assert found.metric("vllm:prefix_cache_hits_total") >= found.metric(HITS)
        assert found.metric(LOADS, outcome="complete") >= len(PROMPTS)
        assert found.metric(CORRUPT) == 0
        eventually(found.is_idle, "no block is in use")


def test_blocks_outlive_a_worker_that_is_killed(
    tmp_path: Path, answers: dict[tuple[int, int], str]
) -> None:
    with small_worker(tmp_path / "log", tmp_path / "kv") as found:
        fill(found, tmp_path / "kv")
        found.send(signal.SIGKILL)
        found.wait()
    with small_worker(tmp_path / "log", tmp_path / "kv") as found:
        eventually(lambda: ask(found, 0, temperature=0)[1] > 0, "the folder was scanned")
        found_again = [ask(found, number, temperature=0) for number in PROMPTS]
        assert [text for text, _ in found_again] == [answers[n, 0] for n in PROMPTS]
        assert sum(cached for _, cached in found_again) > BLOCKS * 16 * 6


def test_what_was_in_memory_outlives_a_worker_that_drains(tmp_path: Path) -> None:
    with small_worker(tmp_path / "log", tmp_path / "kv") as found:
        ask(found, 1, temperature=0)
        found.send(signal.SIGTERM)
        assert found.wait() == 0
    assert len(list(files(tmp_path / "kv"))) >= BLOCKS


def test_a_damaged_folder_costs_time_and_nothing_else(
    tmp_path: Path, answers: dict[tuple[int, int], str]
) -> None:
    draw = random.Random(5)
    with small_worker(tmp_path / "log", tmp_path / "kv") as found:
        fill(found, tmp_path / "kv")
        for path in files(tmp_path / "kv"):
            content = bytearray(path.read_bytes())
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for number in PROMPTS:
            assert ask(found, number, temperature=0)[0] == answers[number, 0]
        assert found.metric(CORRUPT) > 0
        assert found.metric(LOADS, outcome="short") > 0
        eventually(found.is_idle, "no block is in use")


def test_two_workers_share_a_folder(tmp_path: Path, answers: dict[tuple[int, int], str]) -> None:
    folder = tmp_path / "kv"
    with small_worker(tmp_path / "one", folder) as one:
        fill(one, folder)
        with small_worker(tmp_path / "two", folder) as two:
            eventually(lambda: ask(two, 0, temperature=0)[1] > 0, "its folder was scanned")
            for number in PROMPTS:
                for found in (one, two):
                    assert ask(found, number, temperature=0)[0] == answers[number, 0]
            assert two.metric(HITS) > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--kv-tier-disk", "/proc/kv"], "--kv-tier-disk /proc/kv: cannot write there"),
        (["--kv-tier-disk-capacity", "1Ki"], "--kv-tier-disk-capacity: a block alone takes"),
        (["--no-enable-prefix-caching"], "--kv-tier-disk needs --enable-prefix-caching"),
        (["--runner", "sim"], "--kv-tier-disk: --runner sim computes no KV"),
    ],
)
def test_a_tier_that_cannot_be_is_refused(tmp_path: Path, flags: list[str], complaint: str) -> None:
    with worker(tmp_path / "log", "--kv-tier-disk", str(tmp_path / "kv"), *flags) as found:
        assert found.wait() == 1
    assert complaint in (tmp_path / "log").read_text()
