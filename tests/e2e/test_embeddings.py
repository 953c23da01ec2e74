"""A model that embeds and one that scores: `penstock up`, the official client."""

from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
import torch
from openai import BadRequestError, OpenAI
from tiny_encoders import describe, ids, make, words
from torch.nn import functional

pytestmark = pytest.mark.e2e

MANIFEST = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: {name}}}
spec:
  model: {{uri: "file://{folder}"}}
  engine: {{task: {task}}}
  pools:
  - {{name: default, replicas: {replicas}, resources: {{limits: {{cpu: "1"}}}}}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Yield where they are served, and what transformers makes of the one that embeds."""
    from tests.e2e.conftest import Stack

    home = tmp_path_factory.mktemp("home")
    embedder, scorer = home / "embedder", home / "scorer"
    reference = make("xlm-roberta", embedder)
    describe(embedder, "mean")
    make("bert-cross", scorer)
    manifest = home / "models.yaml"
    # What the first is for, its files tell.
    manifest.write_text(
        MANIFEST.format(name="embedder", folder=embedder, task="Auto", replicas=2)
        + "---\n"
        + MANIFEST.format(name="scorer", folder=scorer, task="Score", replicas=1)
    )
    stack = Stack(home / "state")
    try:
        stack.up(manifest, "--timeout", "240s")
        yield stack.url, reference
    finally:
        stack.run("down", check=False)


@pytest.fixture
def client(models: tuple[str, Any]) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{models[0]}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_vectors_come_through_the_gateway_as_they_are(
    client: OpenAI, models: tuple[str, Any]
) -> None:
    texts = [words(count, 3 * count) for count in (1, 30, 100, 7)]
    found = client.embeddings.create(model="embedder", input=texts)
    for text, one in zip(texts, found.data, strict=True):
        with torch.no_grad():
            states = models[1](torch.tensor([ids(text)])).last_hidden_state[0]
        wanted = functional.normalize(states.mean(0), dim=-1)
        torch.testing.assert_close(torch.tensor(one.embedding), wanted, atol=1e-4, rtol=1e-4)
    assert found.usage.total_tokens == sum(len(ids(text)) for text in texts)


def test_answers_of_a_megabyte_and_more_are_whole(client: OpenAI) -> None:
    texts = [words(3, count) for count in range(2048)]
    found = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    assert [one.index for one in found.data] == list(range(2048))


def test_documents_are_ranked(models: tuple[str, Any]) -> None:
    body = {"model": "scorer", "query": words(3), "documents": [words(5), words(9, 40)]}
    answer = plain_http.post(f"{models[0]}/v1/rerank", json=body)
    assert answer.status_code == 200
    scores = [one["relevance_score"] for one in answer.json()["results"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("model", ["embedder", "scorer"])
def test_a_chat_with_them_is_refused_by_name(client: OpenAI, model: str) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with pytest.raises(BadRequestError, match=f"'{model}'") as refused:
        client.chat.completions.create(model=model, messages=messages, stream=True)
    assert refused.value.code == "task_not_supported"


def test_the_gateway_counts_them_like_all_others(models: tuple[str, Any]) -> None:
    text = plain_http.get(f"{models[0]}/metrics").text
    assert 'penstock_gateway_arrivals_total{model="embedder"}' in text
