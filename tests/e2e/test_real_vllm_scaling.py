"""A pool of real vLLMs that sizes itself: it grows under a load, serves, and shrinks afterwards.

The load is one that asks for two whatever the machine's speed: more KV than one of them holds.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import plain_http
import pytest
from tests.e2e.conftest import ROOT, Stack
from tests.e2e.vllm_stack import PATIENCE, vllm_stack
from vllm_program import NEEDS_VLLM

pytestmark = NEEDS_VLLM

SCALING = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: pydoc}}
spec:
  model: {{uri: "file://{root}/examples/model"}}
  engine:
    type: VLLM
    maxModelLen: 1024
    maxNumSeqs: 32
    extraArgs: [--num-gpu-blocks-override=13]
  slo: {{ttft: {{quantile: "0.9", target: 10s}}, tpot: {{quantile: "0.9", target: 2s}}}}
  drain: {{timeout: 60s}}
  pools:
  - {{name: default, scaling: {{minReplicas: 1, maxReplicas: 2}}}}
  autoscaling:
    behavior: {{scaleDown: {{maxStep: 1, window: 30s}}}}
"""
CLIENTS = 8
"""Each has a request under way that grows to 750 tokens; the KV of a vLLM holds 1,500."""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Stack]:
    """One vLLM behind the gateway, and an autoscaler that may start another."""
    with vllm_stack(tmp_path, SCALING.format(root=ROOT)) as found:
        yield found


def ask(url: str, number: int, ended: Event) -> list[int]:
    """Ask one thing after the other until the end; return the statuses."""
    found: list[int] = []
    with httpx.Client(verify=False, trust_env=False, timeout=300) as client:  # noqa: S501
        while not ended.is_set():
            body = {
                "model": "pydoc",
                "prompt": f"{number} {len(found)} " + "A list is a sequence. " * 8,
                "max_tokens": 700,
                "ignore_eos": True,
            }
            found.append(client.post(f"{url}/v1/completions", json=body).status_code)
    return found


def ready(stack: Stack, count: int) -> Callable[[], bool]:
    def right() -> bool:
        states = [worker["state"] for worker in stack.workers()]
        return states == ["Ready"] * count

    return right


def milliseconds(explained: str, row: str) -> float:
    """Return a duration in a row of what `penstock explain` says."""
    found = re.search(rf"{row} +([\d.]+) (ns|µs|ms|s)\b", explained)
    assert found, explained
    return float(found[1]) * {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]


def test_a_pool_grows_serves_and_shrinks_with_its_load(serving: Stack) -> None:
    ended = Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, serving.url, number, ended) for number in range(CLIENTS)]
        try:
            serving.eventually(ready(serving, 2), "a second vLLM is ready", PATIENCE)
            first, second = serving.workers()
            serving.eventually(
                lambda: all(served(one["url"]) > 0 for one in (first, second)), "both serve"
            )
            explained = serving.run("explain", "pydoc").stdout
        finally:
            ended.set()
        answers = [status for one in asked for status in one.result()]
    assert set(answers) == {200}
    # A step without work takes milliseconds, and a request hundreds of them for 700 tokens.
    assert 0 < milliseconds(explained, "a, empty step") < 1000
    assert milliseconds(explained, "w, work of a request") > 0
    assert "2 ready workers" in explained
    serving.eventually(ready(serving, 1), "only one is left", PATIENCE)
    assert plain_http.get(f"{serving.url}/v1/models").status_code == 200


def served(url: str) -> float:
    """Return how many requests a vLLM has answered."""
    lines = plain_http.get(f"{url}/metrics").text.splitlines()
    name = "vllm:request_success_total{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
