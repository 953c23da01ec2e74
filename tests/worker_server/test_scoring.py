"""What clients ask of a prompt itself: its log-probabilities, its tokens, an end of it."""

from typing import Any

import plain_http
import pytest
from openai import OpenAI
from worker_process import NAME, WorkerProcess, eventually

TEXT = "A list is a sequence, and a tuple is one that never changes."
GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0}


def post(served: WorkerProcess, path: str, **body: Any) -> Any:
    answer = plain_http.post(f"{served.url}/v1/{path}", json={**GREEDY, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids_of(served: WorkerProcess, text: str) -> list[int]:
    found: list[int] = plain_http.post(f"{served.url}/tokenize", json={"prompt": text}).json()[
        "tokens"
    ]
    return found


def test_no_tokens_with_echo_score_the_prompt(client: OpenAI, served: WorkerProcess) -> None:
    answer = client.completions.create(**GREEDY, prompt=TEXT, max_tokens=0, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text == TEXT
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    scores = choice.logprobs.token_logprobs or []
    assert len(scores) == len(ids_of(served, TEXT))
    assert scores[0] is None
    assert all(score < 0 for score in scores[1:])
    tables, tokens = choice.logprobs.top_logprobs or [], choice.logprobs.tokens or []
    assert len(tables) == len(tokens) == len(scores)
    for token, score, table in list(zip(tokens, scores, tables, strict=True))[1:]:
        # The token itself is among them even where it is not one of the two likeliest.
        assert table[token] == score
        assert len(table) == 2 + (score < sorted(table.values())[-2])
    assert {len(table) for table in tables[1:]} == {2, 3}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_offsets_point_into_the_echoed_text(client: OpenAI) -> None:
    choice = client.completions.create(
        **GREEDY, prompt=TEXT, max_tokens=6, echo=True, logprobs=0
    ).choices[0]
    assert choice.logprobs is not None
    tokens, offsets = choice.logprobs.tokens or [], choice.logprobs.text_offset or []
    assert "".join(tokens[1:]) == choice.text  # the first one is special: it does not show
    for token, offset in list(zip(tokens, offsets, strict=True))[1:]:
        assert choice.text[offset:].startswith(token)


def test_scores_of_the_prompt_are_those_of_generating_it(served: WorkerProcess) -> None:
    first = post(
        served, "completions", prompt=TEXT, max_tokens=8, logprobs=1, return_token_ids=True
    )
    generated = first["choices"][0]
    whole = [*ids_of(served, TEXT), *generated["token_ids"]]
    again = post(served, "completions", prompt=whole, max_tokens=0, echo=True, logprobs=1)
    scores = again["choices"][0]["logprobs"]["token_logprobs"][-8:]
    assert scores == pytest.approx(generated["logprobs"]["token_logprobs"], abs=0.05)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_prompt_logprobs_as_vllm_writes_them(served: WorkerProcess, path: str) -> None:
    prompt = {"prompt": TEXT} if path == "completions" else {}
    chat = {"messages": [{"role": "user", "content": TEXT}]} if not prompt else {}
    body = post(
        served, path, **prompt, **chat, max_tokens=1, prompt_logprobs=2, return_token_ids=True
    )
    holder = body["choices"][0] if prompt else body
    tokens = holder["prompt_token_ids"]
    entries = holder["prompt_logprobs"]
    assert len(entries) == len(tokens) == body["usage"]["prompt_tokens"]
    assert entries[0] is None
    for token, entry in list(zip(tokens, entries, strict=True))[1:]:
        assert len(entry) in (2, 3)
        own = entry[str(token)]
        assert own["rank"] >= 1
        assert sorted(e["rank"] for e in entry.values())[:2] == [1, 2]
        assert max(e["logprob"] for e in entry.values()) >= own["logprob"]


def test_every_choice_of_every_prompt_is_scored(served: WorkerProcess) -> None:
    body = post(
        served, "completions", prompt=[TEXT, "Sets"], n=2, max_tokens=1, echo=True, logprobs=0
    )
    scored = [choice["logprobs"]["token_logprobs"] for choice in body["choices"]]
    assert scored[0][:-1] == scored[1][:-1]
    assert scored[2][:-1] == scored[3][:-1]
    assert len(scored[0]) > len(scored[2]) > 1


def test_a_cached_prompt_is_scored_too(served: WorkerProcess) -> None:
    asked: dict[str, Any] = {"prompt": TEXT * 4, "max_tokens": 0, "echo": True, "logprobs": 0}
    first, second = (post(served, "completions", **asked)["choices"] for _ in "ab")
    assert first == second


def test_token_ids_come_with_streams(served: WorkerProcess) -> None:
    asked: dict[str, Any] = {"prompt": TEXT, "max_tokens": 9, "return_token_ids": True}
    whole = post(served, "completions", **asked)["choices"][0]
    with OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        extra = {"return_token_ids": True}
        chunks: Any = list(
            client.completions.create(
                **GREEDY, prompt=TEXT, max_tokens=9, stream=True, extra_body=extra
            )
        )
    joined = [token for chunk in chunks for token in chunk.choices[0].token_ids]
    assert joined == whole["token_ids"]
    assert chunks[0].choices[0].prompt_token_ids == whole["prompt_token_ids"]


def test_a_truncated_prompt_keeps_its_end(served: WorkerProcess) -> None:
    ids = ids_of(served, TEXT)
    cut = post(served, "completions", prompt=TEXT, max_tokens=5, truncate_prompt_tokens=7)
    assert cut["usage"]["prompt_tokens"] == 7
    assert (
        cut["choices"][0]["text"]
        == (post(served, "completions", prompt=ids[-7:], max_tokens=5)["choices"][0]["text"])
    )
    long = post(served, "completions", prompt=TEXT * 400, max_tokens=5, truncate_prompt_tokens=-1)
    assert long["usage"]["prompt_tokens"] == 1024 - 5


def test_usage_may_come_with_every_chunk(client: OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        client.completions.create(
            **GREEDY, prompt=TEXT, max_tokens=8, stream=True, stream_options=options
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] > 0


def test_a_prompt_is_computed_once_for_all_its_choices(served: WorkerProcess) -> None:
    eventually(served.is_idle, "the worker is idle")
    name = "penstock_worker_step_tokens_total"
    before = served.metric(name, kind="prefill")
    prompt = "How many choices does one prompt have? " * 5
    body = post(served, "completions", prompt=prompt, n=4, max_tokens=3, temperature=1)
    assert len(body["choices"]) == 4
    eventually(served.is_idle, "the worker is idle again")
    computed = served.metric(name, kind="prefill") - before
    assert computed == body["usage"]["prompt_tokens"] + 3
