"""A real vLLM in the place of Penstock's workers, behind `penstock up`: what docs/vllm.md promises.

Each of its starts takes a minute or more, so there are few: for one model, again after its engine
was killed, and for another that embeds.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import plain_http
import pytest
import zmq
from openai import APIError, BadRequestError, NotFoundError, OpenAI
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import PATIENCE, counted, engines, vllm_client, vllm_stack
from vllm_program import NEEDS_VLLM

from penstock_contract.kv_events import wire

pytestmark = NEEDS_VLLM

GENERATING = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: pydoc}}
spec:
  model:
    uri: file://{root}/examples/model
    aliases: [alias]
    adapters: [{{name: pirate, uri: "file://{root}/examples/adapter"}}]
  engine:
    type: VLLM
    maxModelLen: 1024
    maxNumSeqs: 16
    extraArgs:
    - --enable-auto-tool-choice
    - --tool-call-parser=hermes
    - '--structured-outputs-config={{"backend": "xgrammar", "disable_any_whitespace": true}}'
    - '--kv-events-config={{"enable_kv_cache_events": true, "publisher": "zmq",
      "topic": "kv@w/e@pydoc", "endpoint": "ipc://{folder}/live",
      "replay_endpoint": "ipc://{folder}/replay"}}'
  slo: {{ttft: {{quantile: "0.95", target: 2s}}, tpot: {{quantile: "0.95", target: 500ms}}}}
  drain: {{timeout: 60s}}
  pools:
  - {{name: default, scaling: {{minReplicas: 1, maxReplicas: 1}}}}
"""
EMBEDDING = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: embedder}}
spec:
  model: {{uri: "file://{folder}"}}
  engine: {{type: VLLM, task: Embed, maxModelLen: 128, maxNumSeqs: 16}}
  pools:
  - {{name: default, replicas: 1}}
"""
QUESTION: Any = {
    "model": "pydoc",
    "messages": [{"role": "user", "content": "What is a list?"}],
    "temperature": 0,
    "max_tokens": 24,
}
LONG: Any = {**QUESTION, "max_tokens": 900, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def serving(folder: Path) -> Iterator[Stack]:
    """One vLLM behind the gateway."""
    with vllm_stack(folder, GENERATING.format(root=ROOT, folder=folder)) as found:
        yield found


@pytest.fixture
def client(serving: Stack) -> Iterator[OpenAI]:
    with vllm_client(serving.url) as found:
        yield found


def worker(stack: Stack) -> str:
    """Return where vLLM itself listens."""
    (found,) = stack.workers()
    return str(found["url"])


def another_is_ready(stack: Stack, gone: str) -> Callable[[], bool]:
    def ready() -> bool:
        found = stack.workers()
        return any(one["state"] == "Ready" and one["id"] != gone for one in found)

    return ready


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = client.chat.completions.create(**QUESTION)
    asked = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked))
    assert whole.choices[0].message.content
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_options_of_openai_mean_the_same(client: OpenAI) -> None:
    stopped = client.chat.completions.create(**QUESTION, stop=[" is"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert " is" not in (stopped.message.content or "")
    several = {**QUESTION, "temperature": 1.0, "seed": 7}
    assert len(client.chat.completions.create(**several, n=2).choices) == 2
    told = client.chat.completions.create(**QUESTION, logprobs=True, top_logprobs=2).choices[0]
    assert told.logprobs is not None
    assert told.logprobs.content is not None
    assert len(told.logprobs.content[0].top_logprobs) == 2
    prompts = client.completions.create(model="alias", prompt=["A list", "A set"], max_tokens=2)
    assert [choice.index for choice in prompts.choices] == [0, 1]


def test_an_answer_keeps_to_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"mutable": {"type": "boolean"}},
        "required": ["mutable"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    asked = {**QUESTION, "max_tokens": 200}
    answer = client.chat.completions.create(**asked, response_format=form)
    assert isinstance(json.loads(answer.choices[0].message.content or "")["mutable"], bool)


def test_a_tool_call_has_the_form_that_its_parser_asks_for(client: OpenAI) -> None:
    """What a small model calls it with is anybody's guess; vLLM sees to the form alone."""
    function = {"name": "look_up", "parameters": {"type": "object", "properties": {}}}
    tools: Any = [{"type": "function", "function": function}]
    answer = client.chat.completions.create(**QUESTION, tools=tools, tool_choice="required")
    said = answer.choices[0].message
    assert said.tool_calls or (said.content or "").startswith('<tool_call>\n{"name": "look_up"')


def test_an_adapter_answers_in_its_own_way(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"pydoc", "alias", "pirate"}
    own = client.chat.completions.create(**QUESTION).choices[0].message.content
    adapted = client.chat.completions.create(**{**QUESTION, "model": "pirate"})
    assert adapted.choices[0].message.content != own


def test_errors_come_in_openais_form(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**{**QUESTION, "max_tokens": 100_000})
    assert refused.value.param == "max_tokens"
    with pytest.raises(NotFoundError) as missing:
        client.embeddings.create(model="pydoc", input="a")
    assert missing.value.code == "not_found"


def test_text_is_tokenised(serving: Stack) -> None:
    answer = plain_http.post(f"{serving.url}/tokenize", json={"model": "pydoc", "prompt": "A list"})
    assert answer.json()["count"] == len(answer.json()["tokens"]) > 0


def test_routing_hears_what_was_cached(serving: Stack, client: OpenAI) -> None:
    prompt = "A list is a sequence of values. " * 60
    for _ in range(2):
        answer = client.completions.create(model="pydoc", prompt=prompt, max_tokens=2)
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens
    assert serving.metric("penstock_gateway_prefix_cached_tokens_total") > 0


def test_kv_events_are_read_as_it_writes_them(folder: Path, client: OpenAI) -> None:
    client.completions.create(model="pirate", prompt="An object. " * 100, max_tokens=2)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"ipc://{folder}/replay")
        dealer.rcvtimeo = 10_000
        dealer.linger = 0
        dealer.send_multipart([b"", (0).to_bytes(8, "big")])
        events: list[wire.Event] = []
        while (frames := dealer.recv_multipart())[2] != wire.END:
            assert wire.Topic.decode(frames[1]) == wire.Topic("w", "e", "pydoc")
            events += wire.decode(frames[3]).events
    stored = [event for event in events if isinstance(event, wire.BlockStored)]
    assert {event.lora_name for event in stored} == {None, "pirate"}
    assert all(len(e.token_ids) == e.block_size * len(e.block_hashes) for e in stored)


def test_it_computes_nothing_for_a_client_that_left(serving: Stack, client: OpenAI) -> None:
    stream = client.chat.completions.create(**LONG, stream=True)
    next(iter(stream))
    stream.close()
    idle: Callable[[], bool] = lambda: counted(worker(serving), "vllm:num_requests_running") == 0  # noqa: E731
    serving.eventually(idle, "nothing runs any more")
    before = counted(worker(serving), "vllm:generation_tokens_total")
    time.sleep(0.5)
    assert counted(worker(serving), "vllm:generation_tokens_total") == before


def test_the_autoscaler_learns_what_its_steps_cost(serving: Stack, client: OpenAI) -> None:
    def explained() -> bool:
        client.chat.completions.create(**{**QUESTION, "max_tokens": 200})
        said = serving.run("explain", "pydoc").stdout
        return "w, work of a request" in said and "metrics: fresh" in said

    serving.eventually(explained, "a curve was fitted", patience=120)


def test_a_stream_whose_engine_dies_ends_with_an_error(serving: Stack, client: OpenAI) -> None:
    (found,) = serving.workers()
    (engine,) = engines(found["pid"])
    stream = iter(client.chat.completions.create(**LONG, stream=True))
    next(stream)
    os.kill(engine, signal.SIGKILL)
    with pytest.raises(APIError, match="incomplete"):
        list(stream)
    ready = another_is_ready(serving, found["id"])
    serving.eventually(ready, "another vLLM is ready", patience=PATIENCE)
    assert client.chat.completions.create(**QUESTION).choices


def test_it_finishes_what_it_has_when_it_is_taken_away(
    serving: Stack, client: OpenAI, folder: Path
) -> None:
    stream = iter(client.chat.completions.create(**LONG, stream=True))
    next(stream)
    down = Thread(target=lambda: serving.run("down", str(folder / "manifest.yaml")))
    down.start()
    reasons = [chunk.choices[0].finish_reason for chunk in stream]
    down.join()
    assert reasons[-1] == "length"


def test_one_that_embeds_is_served_beside(serving: Stack, client: OpenAI, folder: Path) -> None:
    from tiny_encoders import describe, make, words

    model = folder / "embedder"
    make("bert-wide", model)
    describe(model, "mean")
    manifest = folder / "embedding.yaml"
    manifest.write_text(EMBEDDING.format(folder=model))
    serving.run("up", str(manifest), timeout=PATIENCE)
    answer = client.embeddings.create(model="embedder", input=[words(3), words(5)])
    assert [len(found.embedding) for found in answer.data] == [128, 128]
    with pytest.raises(BadRequestError, match="embeds"):
        client.chat.completions.create(**{**QUESTION, "model": "embedder"})
