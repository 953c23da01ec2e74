"""A real vLLM that guesses, by the flags that Penstock gives it: its answers stay what they are.

One start for each method: held against `transformers`, which guesses nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from openai import BadRequestError
from tests.e2e import greedy
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import vllm_client, vllm_stack
from vllm_program import NEEDS_VLLM

pytestmark = NEEDS_VLLM

MANIFEST: Final = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: guessing}}
spec:
  model: {{uri: "file://{root}/examples/model"}}
  engine:
    type: VLLM
    dtype: float32
    maxModelLen: 512
    maxNumSeqs: 8
    extraArgs: [--enforce-eager]
    speculative: {{method: {method}, numTokens: 3{draft}}}
  pools:
  - {{name: default, replicas: 1}}
"""
DRAFTS: Final = {"ngram": "", "draft": "draft", "eagle3": "eagle"}
"""Folders of the example model, by the method that wants them."""


def manifest(method: str) -> str:
    folder = DRAFTS[method]
    draft = f', draft: {{uri: "file://{greedy.MODEL}/{folder}"}}' if folder else ""
    return MANIFEST.format(root=ROOT, method=method, draft=draft)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    return greedy.answers(greedy.base())


@pytest.fixture(params=DRAFTS)
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    with vllm_stack(tmp_path, manifest(request.param)) as found:
        yield found


def test_greedy_answers_stay_the_same_and_guesses_are_taken(
    serving: Stack, expected: list[str]
) -> None:
    with vllm_client(serving.url) as client:
        assert [greedy.says(client, "guessing", prompt) for prompt in greedy.PROMPTS] == expected
        with pytest.raises(BadRequestError, match="not yet supported with speculative decoding"):
            client.completions.create(model="guessing", prompt="A", logit_bias={"5": 1})
    assert serving.metric("vllm:spec_decode_num_accepted_tokens_total") > 0
