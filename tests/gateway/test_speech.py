"""Recordings: forms that go to a worker as they came, routed and limited like all requests."""

from contextlib import suppress
from typing import Any

import httpx
import openai
import plain_http
import pytest
import vllm_answers
from hypothesis import given
from hypothesis import strategies as st
from recordings import SOUND, form
from stub_worker import OK, StubWorker

from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError
from penstock_contract.proofs import proofs
from penstock_contract.tasks import SPEECH_PATHS
from penstock_gateway.relay.speech import LONGEST_FIELD, MOST_FIELDS, SOUND_BYTES, read_form

PATH = SPEECH_PATHS[0]


async def ask(
    gateway: Any, path: str = PATH, *, sound: bytes = SOUND, **fields: Any
) -> httpx.Response:
    async with plain_http.client() as client:
        files = {"file": ("a.wav", sound, "audio/wav")}
        return await client.post(gateway.url + path, data={"model": "m", **fields}, files=files)


@pytest.mark.anyio
@pytest.mark.parametrize("path", SPEECH_PATHS)
async def test_forms_pass_through_untouched(gateway: Any, path: str) -> None:
    async with StubWorker("heard") as worker, plain_http.client() as client:
        await gateway.serve(worker)
        body, kind = form({"model": "org/alias", "language": "de"})
        head = {**kind, "x-penstock-attempt": "7"}
        answer = await client.post(gateway.url + path, content=body, headers=head)
        assert (answer.status_code, answer.content) == (200, vllm_answers.TRANSCRIPTION)
        (seen,) = worker.seen
        assert seen.body == body
        assert seen.head.startswith(f"POST {path} ".encode())
        assert f"content-type: {kind['content-type']}\r\n".encode() in seen.head
        assert b"x-penstock-attempt" not in seen.head


@pytest.mark.anyio
async def test_the_openai_client_gets_a_text(gateway: Any) -> None:
    async with (
        StubWorker("heard") as whole,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client,
    ):
        await gateway.serve(whole)
        found = await client.audio.transcriptions.create(file=("a.wav", SOUND), model="m")
        assert found.text == "So it was said."


@pytest.mark.anyio
async def test_a_stream_passes_through(gateway: Any) -> None:
    async with StubWorker("heard_as_stream") as worker:
        await gateway.serve(worker)
        answer = await ask(gateway, stream="true")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content == vllm_answers.TRANSCRIPTION_EVENTS


@pytest.mark.anyio
async def test_an_answer_need_not_be_json(gateway: Any) -> None:
    async with StubWorker("subtitles") as worker:
        await gateway.serve(worker)
        answer = await ask(gateway, response_format="vtt")
        assert (answer.status_code, answer.content) == (200, vllm_answers.SUBTITLES)
        assert answer.headers["content-type"] == "text/vtt"


@pytest.mark.anyio
async def test_a_worker_that_fails_costs_a_retry(gateway: Any) -> None:
    async with StubWorker("die") as broken, StubWorker("heard") as well:
        await gateway.serve(broken, well)
        while not broken.seen:  # equal workers are chosen among at random
            assert (await ask(gateway)).status_code == 200
        assert well.seen


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fields", "sound", "status", "words"),
    [
        ({"model": ""}, SOUND, 400, "model is required"),
        ({"model": "other"}, SOUND, 404, "'other'"),
        ({"model": ["m", "m"]}, SOUND, 400, "model is there twice"),
        ({"model": "m", "prompt": "x" * (LONGEST_FIELD + 1)}, SOUND, 400, "prompt may have"),
        ({f"f{n}": "x" for n in range(MOST_FIELDS + 1)}, SOUND, 400, "may have 64 fields"),
        ({"model": "m"}, bytes(1 << 20), 413, "the body has more than"),
    ],
)
async def test_what_is_wrong_is_named(
    gateway: Any, fields: dict[str, Any], sound: bytes, status: int, words: str
) -> None:
    async with StubWorker("heard") as worker, plain_http.client() as client:
        await gateway.serve(worker)
        body, kind = form(fields, sound)
        answer = await client.post(gateway.url + PATH, content=body, headers=kind)
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]
        assert not worker.seen


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("application/json", b'{"model":"m"}', 415, "multipart/form-data"),
        ("multipart/form-data", b"--x--\r\n", 415, "multipart/form-data"),
        ("multipart/form-data; boundary=x", b"what", 400, "the form cannot be read"),
        ("multipart/form-data; boundary=x", b"--x\r\n", 400, "the form is not complete"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400, "file is required"),
    ],
)
async def test_what_is_no_form_is_refused(
    gateway: Any, kind: str, body: bytes, status: int, words: str
) -> None:
    async with StubWorker("heard") as worker, plain_http.client() as client:
        await gateway.serve(worker)
        answer = await client.post(gateway.url + PATH, content=body, headers={"content-type": kind})
        assert answer.status_code == status
        assert words in answer.json()["error"]["message"]


@pytest.mark.anyio
async def test_json_routes_take_no_forms(gateway: Any) -> None:
    async with StubWorker() as worker:
        await gateway.serve(worker)
        assert (await ask(gateway, "/v1/completions")).status_code == 415


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("task", "status"), [(Task.TRANSCRIBE, 200), (Task.EMBED, 400), (Task.GENERATE, 400)]
)
async def test_a_stated_task_is_held(gateway: Any, task: Task, status: int) -> None:
    async with StubWorker("heard") as worker:
        await gateway.serve(worker, task=task)
        assert (await ask(gateway)).status_code == status


@pytest.mark.anyio
async def test_a_model_that_hears_answers_no_chats(gateway: Any) -> None:
    async with StubWorker() as worker, plain_http.client() as client:
        await gateway.serve(worker, task=Task.TRANSCRIBE)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post(f"{gateway.url}/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert PATH in answer.json()["error"]["message"]
        models = (await client.get(f"{gateway.url}/v1/models")).json()["data"]
        assert models[0]["task"] == "transcribe"


@pytest.mark.anyio
async def test_json_answers_of_other_routes_must_still_be_json(gateway: Any) -> None:
    async with StubWorker("subtitles") as odd, StubWorker() as well, plain_http.client() as client:
        await gateway.serve(odd, well)
        while not odd.seen:
            asked = {"model": "m", "prompt": "hi"}
            answer = await client.post(f"{gateway.url}/v1/completions", json=asked)
            assert answer.content == OK


@given(
    st.binary(max_size=2000),
    st.dictionaries(
        st.sampled_from(["model", "prompt", "service_tier", "language"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=50),
    ),
    st.booleans(),
)
def test_a_form_says_who_is_asked_and_how_much(
    sound: bytes, texts: dict[str, str], stream: bool
) -> None:
    body, kind = form({**texts, "stream": str(stream).lower()}, sound)
    fields, size = read_form(body, kind["content-type"])
    wanted: dict[str, object] = {"stream": stream}
    for name in ("model", "service_tier"):
        if name in texts:
            wanted[name] = texts[name]
    assert fields == wanted
    assert size == len(sound) // SOUND_BYTES + len(texts.get("prompt", ""))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_form_or_refused(body: bytes) -> None:
    for whole in (body, b"--x\r\n" + body, b"--x\r\n" + body + b"\r\n--x--\r\n"):
        with suppress(ApiError):
            read_form(whole, "multipart/form-data; boundary=x")


def test_the_proof_is_a_form_as_the_gateway_reads_them() -> None:
    path, kind, body = proofs("org/ears")[-1]
    assert path == PATH
    fields, size = read_form(body, kind)
    assert fields == {"model": "org/ears", "stream": False}
    assert size == (44 + 32_000) // SOUND_BYTES
