"""Streams of a real vLLM that is killed go on at another one: what docs/vllm.md promises of them.

Two starts, at once. It computes in float32: what the other one computes anew from a prompt differs
from what was decoded in the last bits, and in bfloat16 another word may then be the best.
"""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

import plain_http
import pytest
from stream_auditor import Recording, audit, record
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import counted, engines, vllm_stack
from vllm_program import NEEDS_VLLM

pytestmark = NEEDS_VLLM

PAIR: Final = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: pair}}
spec:
  model: {{uri: "file://{root}/examples/model"}}
  engine:
    type: VLLM
    dtype: float32
    maxModelLen: 1024
    maxNumSeqs: 16
    extraArgs: [--enforce-eager]
  pools:
  - {{name: default, replicas: 2}}
"""
QUESTIONS: Final = ("What is a list?", "What is a generator?")
CHAT: Final = "/v1/chat/completions"
PLAIN: Final = "/v1/completions"
NEVER: Final = "never said, but waited for"

Asked = tuple[str, dict[str, Any]]
"""A path and a body."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two vLLMs behind the gateway."""
    with vllm_stack(tmp_path_factory.mktemp("vllm"), PAIR.format(root=ROOT)) as found:
        yield found


def test_streams_of_one_that_dies_go_on_at_another(pair: Stack) -> None:
    open_ended = [asked for question in QUESTIONS for asked in without_end(question)]
    undisturbed = asyncio.run(all_of(pair, open_ended))
    said = [audit(found, include_usage=True).texts[0] for found in undisturbed]
    stopped = [
        asked
        for (path, body), text in zip(open_ended, said, strict=True)
        if body.keys().isdisjoint({"logprobs", "stop"})
        for asked in stopping(path, body, text)
    ]
    undisturbed += asyncio.run(all_of(pair, stopped))
    broken = asyncio.run(streamed_while_one_dies(pair, [*open_ended, *stopped]))
    reasons = ["length"] * len(open_ended) + ["stop"] * len(stopped)
    for is_now, would_be, reason in zip(broken, undisturbed, reasons, strict=True):
        same(is_now, would_be, reason)
    lines = plain_http.get(f"{pair.url}/metrics").text.splitlines()
    resumed = [line for line in lines if line.startswith("penstock_gateway_resumes_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in resumed) > 0


def same(is_now: Recording, would_be: Recording, reason: str) -> None:
    """Assert that a stream was whole, and the same as the undisturbed one."""
    now, whole = (audit(found, include_usage=True) for found in (is_now, would_be))
    assert now.outcome == "complete"
    assert now.texts == whole.texts
    assert now.finish_reasons == whole.finish_reasons == {0: reason}
    assert now.usage is not None
    assert whole.usage is not None
    assert now.usage["prompt_tokens"] == whole.usage["prompt_tokens"]
    if reason == "stop":  # those computed before it was seen count, too
        assert now.usage["completion_tokens"] >= whole.usage["completion_tokens"]
    else:
        assert now.usage["completion_tokens"] == whole.usage["completion_tokens"]
    assert now.usage["total_tokens"] == sum(
        now.usage[name] for name in ("prompt_tokens", "completion_tokens")
    )
    assert shown(is_now) == shown(would_be)
    assert len({json.loads(e)["id"] for e in is_now.events() if e != "[DONE]"}) == 1
    assert b'token_ids":[' not in is_now.body


def shown(recording: Recording) -> list[Any]:
    """Return the tokens of an answer, and where they begin, where it tells."""
    told = [json.loads(event) for event in recording.events() if event != "[DONE]"]
    logprobs = [choice.get("logprobs") or {} for one in told for choice in one["choices"]]
    places = [at for one in logprobs for at in one.get("text_offset", [])]
    tokens = [token for one in logprobs for token in one.get("tokens", [])]
    return [*places, *tokens, *(c["token"] for one in logprobs for c in one.get("content") or [])]


def without_end(question: str) -> Iterator[Asked]:
    """Yield what is answered by as many tokens as are asked for."""
    asked = {"model": "pair", "temperature": 0, "max_tokens": 900, "ignore_eos": True}
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    chat = {**asked, "messages": [{"role": "user", "content": question}]}
    plain = {**asked, "prompt": question}
    yield CHAT, chat
    yield PLAIN, plain
    yield CHAT, {**chat, "stop": [NEVER]}
    yield CHAT, {**chat, "logprobs": True, "top_logprobs": 2}
    yield PLAIN, {**plain, "logprobs": 1}


def stopping(path: str, body: dict[str, Any], text: str) -> Iterator[Asked]:
    """Yield the same with a stop string that begins at once and is long, and with one further on.

    vLLM keeps text back that may begin one: what the first is about to end when it dies.
    """
    yield path, {**body, "stop": [text[12:212], NEVER]}
    yield path, {**body, "stop": text[300:320]}


async def all_of(stack: Stack, asked: list[Asked]) -> list[Recording]:
    """Ask for all streams at once."""
    return await asyncio.gather(*(record(stack.url, *one) for one in asked))


async def streamed_while_one_dies(stack: Stack, asked: list[Asked]) -> list[Recording]:
    """Ask for all streams at once, and kill the vLLM that has said most when one has begun."""
    running = {worker["url"]: worker["pid"] for worker in stack.workers()}
    said = {url: counted(url, "vllm:generation_tokens_total") for url in running}
    computing = {process: engines(process) for process in running.values()}
    for engine in chain.from_iterable(computing.values()):
        give_way(engine)
    begun = asyncio.Event()
    asking = [
        asyncio.create_task(record(stack.url, path, body, first_piece=begun))
        for path, body in asked
    ]
    await begun.wait()
    for engine in chain.from_iterable(computing.values()):  # or all ends before it is counted
        os.kill(engine, signal.SIGSTOP)
    more = {url: counted(url, "vllm:generation_tokens_total") - said[url] for url in running}
    dying = running[max(more, key=more.__getitem__)]
    for process in (dying, *computing.pop(dying)):
        os.kill(process, signal.SIGKILL)
    for engine in chain.from_iterable(computing.values()):
        os.kill(engine, signal.SIGCONT)
    return await asyncio.gather(*asking)


def give_way(pid: int) -> None:
    """Let a process run only when no other wants to: it must not be done before it is looked at."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
