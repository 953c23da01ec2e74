"""A real vLLM that hears, behind `penstock up`: what docs/speech.md promises.

Its environment must have vLLM's audio extra: av, scipy, soundfile and soxr.
"""

import json
from collections.abc import Iterator

import httpx
import pytest
import tiny_whisper
from openai import APIStatusError, OpenAI
from tests.e2e.conftest import Stack
from tests.e2e.vllm_stack import vllm_client, vllm_stack
from vllm_program import NEEDS_VLLM

from penstock_contract.proofs import silence
from penstock_contract.tasks import SPEECH_PATHS

pytestmark = NEEDS_VLLM

HEARING = """\
apiVersion: penstock.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: ears}}
spec:
  model: {{uri: "file://{folder}"}}
  engine: {{type: VLLM, task: Transcribe, maxNumSeqs: 4, extraArgs: [--enforce-eager]}}
  pools:
  - {{name: default, replicas: 1}}
"""
SOUND = ("a.wav", silence(3))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("hearing")
    tiny_whisper.make(folder / "model")
    with vllm_stack(folder, HEARING.format(folder=folder / "model")) as found:
        yield found


@pytest.fixture
def client(serving: Stack) -> Iterator[OpenAI]:
    with vllm_client(serving.url) as found:
        yield found


def ask(serving: Stack, path: str, **fields: str) -> httpx.Response:
    data = {"model": "ears", "max_completion_tokens": "8", **fields}
    return httpx.post(f"{serving.url}{path}", data=data, files={"file": SOUND}, timeout=120)


def test_it_is_ready_once_it_has_heard_something_and_answers(
    client: OpenAI, serving: Stack
) -> None:
    found = client.audio.transcriptions.create(file=SOUND, model="ears", language="en")
    assert isinstance(found.text, str)
    translated = ask(serving, SPEECH_PATHS[1])
    assert isinstance(translated.json()["text"], str)


def test_it_streams(serving: Stack) -> None:
    answer = ask(serving, SPEECH_PATHS[0], language="en", stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert {json.loads(event)["object"] for event in events[:-1]} == {"transcription.chunk"}


def test_what_it_cannot_read_is_the_callers_fault(client: OpenAI) -> None:
    with pytest.raises(APIStatusError) as refused:
        client.audio.transcriptions.create(file=("a.wav", b"no sound"), model="ears")
    assert refused.value.status_code == 400
    with pytest.raises(APIStatusError, match="writes down what is said"):
        client.chat.completions.create(model="ears", messages=[{"role": "user", "content": "hi"}])
