"""Real vLLMs that compute prompts for each other, behind `penstock up`: docs/vllm.md promises it.

Their environment must have NIXL: `nixl_cu12` and `nixl`, which work on CPUs as well.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from stream_auditor import audit, record
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import vllm_client, vllm_stack
from vllm_program import NEEDS_VLLM, PYTHON
from waiting import eventually

pytestmark = NEEDS_VLLM

SPLIT = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: pydoc}}
spec:
  model: {{uri: "file://{root}/examples/model"}}
  engine: {{type: VLLM, maxModelLen: 1024, maxNumSeqs: 16, extraArgs: [--enforce-eager]}}
  disaggregation: {{mode: Always}}
  pools:
  - {{name: prefill, role: Prefill, replicas: 1}}
  - {{name: decode, role: Decode, replicas: 1}}
"""
TEXT = "A list is a sequence of items that can be changed after it was made. " * 12


def body(text: str, **options: Any) -> dict[str, Any]:
    """Return a question whose prompt is more than one of vLLM's blocks of 128 tokens."""
    messages = [{"role": "user", "content": f"{text}. {TEXT}"}]
    return {"model": "pydoc", "messages": messages, "temperature": 0, "max_tokens": 24, **options}


@pytest.fixture(scope="module", autouse=True)
def nixl() -> None:
    found = subprocess.run([PYTHON, "-c", "import nixl"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("no NIXL beside this vLLM")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with vllm_stack(tmp_path_factory.mktemp("split"), SPLIT.format(root=ROOT)) as found:
        yield found


def of_pool(stack: Stack, pool: str) -> dict[str, Any]:
    """Return the worker of a pool."""
    (found,) = [one for one in stack.workers() if one["pool"] == pool]
    return dict(found)


def pulled(stack: Stack) -> float:
    """Return how many prompt tokens the decode worker did not compute."""
    text = plain_http.get(f"{of_pool(stack, 'decode')['url']}/metrics").text
    name = 'source="external_kv_transfer"'
    lines = [one for one in text.splitlines() if "by_source_total" in one and name in one]
    return sum(float(one.rpartition(" ")[2]) for one in lines)


def answer(url: str, asked: dict[str, Any]) -> str:
    with vllm_client(url) as client:
        found = client.chat.completions.create(**asked)
    return str(found.choices[0].message.content)


def test_a_prompt_is_computed_by_one_and_answered_by_the_other(serving: Stack) -> None:
    prefill = of_pool(serving, "prefill")["url"]
    # The first time they have to meet, which may take longer than either waits.
    eventually(
        lambda: bool(answer(serving.url, body("Hello"))) and pulled(serving) > 0, "a prompt pulled"
    )
    before = pulled(serving)
    asked = body("Another beginning")
    through = answer(serving.url, asked)
    assert pulled(serving) - before >= 128
    assert through == answer(prefill, asked)


def test_a_stream_is_handed_over_too(serving: Stack) -> None:
    before = pulled(serving)
    asked = body("As a stream", stream=True)
    found = asyncio.run(record(serving.url, "/v1/chat/completions", asked))
    assert audit(found, include_usage=False).outcome == "complete"
    assert pulled(serving) - before >= 128


def test_without_the_prefill_worker_answers_go_on(serving: Stack) -> None:
    os.kill(of_pool(serving, "prefill")["pid"], signal.SIGKILL)
    assert answer(serving.url, body("Who computes this"))
