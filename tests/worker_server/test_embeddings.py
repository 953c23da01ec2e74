"""Embeddings, scores and rankings of a real worker, asked by the official client and by hand."""

import base64
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
import torch
from openai import BadRequestError, NotFoundError, OpenAI
from tiny_encoders import POSITIONS, WIDTH, describe, ids, make, words
from torch.nn import functional
from worker_process import NAME, WorkerProcess, eventually, worker

from penstock_contract.tasks import SPEECH_PATHS

LONGEST = POSITIONS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("bert")
    reference = make("bert", folder)
    describe(folder, "mean")
    return folder, reference


@pytest.fixture(scope="module")
def embedder(
    model: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("embedder") / "log"
    with worker(log, model=model[0]) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerProcess, Any]]:
    folder = tmp_path_factory.mktemp("cross")
    reference = make("bert-cross", folder)
    with worker(tmp_path_factory.mktemp("scorer") / "log", model=folder) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found, reference


@pytest.fixture
def client(embedder: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{embedder.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def reference_vector(reference: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        found = reference(torch.tensor([ids(text)])).last_hidden_state[0].mean(0)
    vector: torch.Tensor = functional.normalize(found, dim=-1)
    return vector


def post(found: WorkerProcess, path: str, **body: Any) -> httpx.Response:
    return plain_http.post(f"{found.url}{path}", json={"model": NAME, **body})


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_the_official_client_gets_the_references_vectors(
    client: OpenAI, model: tuple[Path, Any]
) -> None:
    texts = [words(count, first) for first, count in enumerate((3, 90, 20, 20, 1))]
    found = client.embeddings.create(model=NAME, input=texts)  # base64 on the wire
    assert [one.index for one in found.data] == list(range(len(texts)))
    for text, one in zip(texts, found.data, strict=True):
        wanted = reference_vector(model[1], text)
        torch.testing.assert_close(torch.tensor(one.embedding), wanted, atol=1e-4, rtol=1e-4)
    tokens = sum(len(ids(text)) for text in texts)
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (tokens, tokens)
    assert found.model == NAME


def test_floats_and_base64_are_the_same_numbers(embedder: WorkerProcess) -> None:
    text = words(12)
    floats = post(embedder, "/v1/embeddings", input=text).json()["data"][0]["embedding"]
    coded = post(embedder, "/v1/embeddings", input=text, encoding_format="base64").json()
    raw = base64.b64decode(coded["data"][0]["embedding"])
    assert len(floats) == WIDTH
    assert list(struct.unpack(f"<{WIDTH}f", raw)) == pytest.approx(floats, abs=1e-6)


def test_texts_and_token_ids_in_every_form_are_understood(embedder: WorkerProcess) -> None:
    text = words(9)
    forms: list[Any] = [text, [text], ids(text), [ids(text), ids(text)]]
    found = [post(embedder, "/v1/embeddings", input=form).json()["data"] for form in forms]
    assert [len(data) for data in found] == [1, 1, 1, 2]
    for data in found:
        assert data[-1]["embedding"] == pytest.approx(found[0][0]["embedding"], abs=1e-5)


def test_fewer_dimensions_are_the_first_ones_at_length_one(client: OpenAI) -> None:
    whole = client.embeddings.create(model=NAME, input=words(5)).data[0].embedding
    short = client.embeddings.create(model=NAME, input=words(5), dimensions=16).data[0].embedding
    length = sum(value * value for value in whole[:16]) ** 0.5
    assert short == pytest.approx([value / length for value in whole[:16]], abs=1e-6)
    with pytest.raises(BadRequestError, match=str(WIDTH)) as refused:
        client.embeddings.create(model=NAME, input="w1", dimensions=WIDTH + 1)
    assert refused.value.param == "dimensions"


def test_a_text_that_is_too_long_is_refused_or_cut_on_request(embedder: WorkerProcess) -> None:
    texts = [words(3), words(LONGEST)]
    refused = post(embedder, "/v1/embeddings", input=texts)
    assert error(refused) == (400, "context_length_exceeded", "input")
    assert f"input[1] has {LONGEST + 2} tokens" in refused.json()["error"]["message"]
    cut = post(embedder, "/v1/embeddings", input=texts, truncate_prompt_tokens=-1).json()
    same = post(embedder, "/v1/embeddings", input=words(LONGEST - 2)).json()
    assert cut["usage"]["prompt_tokens"] == 5 + LONGEST
    assert cut["data"][1]["embedding"] == pytest.approx(same["data"][0]["embedding"], abs=1e-5)


def test_letters_without_end_are_refused_before_they_are_read(embedder: WorkerProcess) -> None:
    refused = post(embedder, "/v1/embeddings", input="a" * 1_000_000)
    assert error(refused) == (400, "context_length_exceeded", "input")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": {"text": "w1"}}, "input"),
        ({"input": "w1", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "w1", "dimensions": 0}, "dimensions"),
        ({"input": [1, 99_999]}, "input"),
    ],
)
def test_bad_input_is_refused_by_field(
    embedder: WorkerProcess, body: dict[str, Any], param: str
) -> None:
    status, code, named = error(post(embedder, "/v1/embeddings", **body))
    assert (status, code) == (400, "invalid_request")
    assert named is not None
    assert named.startswith(param)


def test_generation_is_refused_and_tells_what_the_model_has(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="/v1/embeddings") as refused:
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "w1"}])
    assert refused.value.code == "task_not_supported"
    with pytest.raises(BadRequestError, match="embeds texts"):
        client.completions.create(model=NAME, prompt="w1")
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="another", input="w1")


def test_texts_are_compared_by_their_vectors_cosine(
    embedder: WorkerProcess, model: tuple[Path, Any]
) -> None:
    query, documents = words(4), [words(6, 50), words(4), words(30, 9)]
    found = post(embedder, "/v1/score", text_1=query, text_2=documents).json()
    vectors = [reference_vector(model[1], text) for text in (query, *documents)]
    wanted = [float(vectors[0] @ vector) for vector in vectors[1:]]
    assert [one["score"] for one in found["data"]] == pytest.approx(wanted, abs=1e-4)
    ranked = post(embedder, "/v1/rerank", query=query, documents=documents).json()["results"]
    assert ranked[0]["index"] == 1
    assert ranked[0]["relevance_score"] == pytest.approx(1.0, abs=1e-5)


def reference_score(reference: Any, query: str, text: str) -> float:
    first, second = ids(query), ids(text)[1:]
    types = torch.tensor([[0] * len(first) + [1] * len(second)])
    with torch.no_grad():
        logit = reference(torch.tensor([first + second]), token_type_ids=types).logits
    return float(logit.sigmoid())


def test_a_cross_encoder_scores_pairs(scorer: tuple[WorkerProcess, Any]) -> None:
    found, reference = scorer
    ones, twos = [words(4), words(9, 3)], [words(6, 50), words(80, 9)]
    answer = post(found, "/v1/score", text_1=ones, text_2=twos).json()
    wanted = [reference_score(reference, *pair) for pair in zip(ones, twos, strict=True)]
    assert [one["score"] for one in answer["data"]] == pytest.approx(wanted, abs=1e-4)
    assert [one["object"] for one in answer["data"]] == ["score", "score"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_come_best_first(scorer: tuple[WorkerProcess, Any], path: str) -> None:
    found, reference = scorer
    query, texts = words(4), [words(count, 11 * count) for count in (6, 80, 2, 31)]
    documents = [texts[0], {"text": texts[1]}, *texts[2:]]
    answer = post(found, path, query=query, documents=documents, top_n=3).json()
    scores = [reference_score(reference, query, text) for text in texts]
    best = sorted(range(4), key=lambda index: -scores[index])[:3]
    assert [one["index"] for one in answer["results"]] == best
    assert [one["document"]["text"] for one in answer["results"]] == [texts[n] for n in best]
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(
        [scores[n] for n in best], abs=1e-4
    )
    assert answer["usage"]["total_tokens"] == sum(len(ids(t)) + 5 for t in texts)


def test_a_long_document_loses_its_end_if_that_is_asked_for(
    scorer: tuple[WorkerProcess, Any],
) -> None:
    found, _ = scorer
    long = {"query": words(10), "documents": [words(200)]}
    assert error(post(found, "/v1/rerank", **long))[:2] == (400, "context_length_exceeded")
    cut = post(found, "/v1/rerank", **long, truncate_prompt_tokens=-1, return_documents=False)
    assert cut.json()["usage"]["prompt_tokens"] == LONGEST
    assert "document" not in cut.json()["results"][0]


def test_a_cross_encoder_has_no_vectors(scorer: tuple[WorkerProcess, Any]) -> None:
    refused = post(scorer[0], "/v1/embeddings", input="w1")
    assert error(refused) == (400, "task_not_supported", "model")
    assert "/v1/rerank" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", SPEECH_PATHS)
def test_no_model_of_ours_hears(scorer: tuple[WorkerProcess, Any], path: str) -> None:
    answer = plain_http.post(f"{scorer[0].url}{path}", data={"model": "m"}, files={"file": b"x"})
    assert error(answer) == (400, "task_not_supported", "model")
    assert "VLLM" in answer.json()["error"]["message"]


def test_texts_without_partners_are_refused(scorer: tuple[WorkerProcess, Any]) -> None:
    refused = post(scorer[0], "/v1/score", text_1=["w1", "w2"], text_2=["w1", "w2", "w3"])
    assert error(refused) == (400, "invalid_request", "text_1")


def test_what_was_computed_is_measured(embedder: WorkerProcess) -> None:
    before = embedder.metric("vllm:prompt_tokens_total")
    post(embedder, "/v1/embeddings", input=[words(8), words(18)])
    eventually(
        lambda: embedder.metric("vllm:prompt_tokens_total") == before + 30, "its tokens count"
    )
    assert embedder.metric("vllm:time_to_first_token_seconds_count") > 0
    assert embedder.metric("vllm:e2e_request_latency_seconds_count") > 0
    assert embedder.metric("penstock_worker_step_tokens_total", kind="prefill") > 0
    assert embedder.metric("penstock_worker_step_cost_seconds", term="prefill_token") > 0
    assert embedder.metric("vllm:generation_tokens_total") == 0
    eventually(embedder.is_idle, "nothing runs")


def test_a_client_that_leaves_stops_its_computation(embedder: WorkerProcess) -> None:
    body = json.dumps({"model": NAME, "input": [words(120, n) for n in range(2048)]})
    with pytest.raises(httpx.ReadTimeout):
        plain_http.post(
            f"{embedder.url}/v1/embeddings",
            content=body,
            headers={"content-type": "application/json"},
            timeout=httpx.Timeout(30, read=0.3),
        )
    eventually(embedder.is_idle, "the rest is not computed")


def test_tokens_are_told_without_the_tokenizers_own_limits(embedder: WorkerProcess) -> None:
    found = post(embedder, "/tokenize", prompt=words(20)).json()
    assert found["tokens"] == ids(words(20))
    assert found["max_model_len"] == LONGEST


def test_a_worker_drains_what_it_has(model: tuple[Path, Any], tmp_path: Path) -> None:
    import signal

    with worker(tmp_path / "log", model=model[0]) as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        answers: list[httpx.Response] = []
        texts = [words(120, n) for n in range(2048)]  # seconds of work

        def ask() -> None:
            answers.append(post(found, "/v1/embeddings", input=texts))

        asking = threading.Thread(target=ask)
        asking.start()
        eventually(lambda: found.metric("vllm:num_requests_running") > 0, "it computes")
        found.send(signal.SIGTERM)
        asking.join()
        assert found.wait() == 0
    assert answers[0].status_code == 200
    assert len(answers[0].json()["data"]) == len(texts)


@pytest.mark.parametrize(
    "flags", [("--kv-transfer", "127.0.0.1:0"), ("--speculative", "ngram"), ("--runner", "sim")]
)
def test_flags_for_generation_are_refused(
    model: tuple[Path, Any], flags: tuple[str, ...], tmp_path: Path
) -> None:
    with worker(tmp_path / "log", *flags, model=model[0]) as found:
        assert found.wait() == 2
    assert f"{flags[0]}" in (tmp_path / "log").read_text()
    assert "generate" in (tmp_path / "log").read_text()


def test_another_task_than_the_models_is_refused_at_start(
    model: tuple[Path, Any], tmp_path: Path
) -> None:
    with worker(tmp_path / "log", "--task", "score", model=model[0]) as found:
        assert found.wait() == 2
    assert "--task embed, not score" in (tmp_path / "log").read_text()
