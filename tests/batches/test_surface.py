"""What the API takes and refuses, as OpenAI's client sees it; nothing here waits for a model."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import batch_stack
import openai
import plain_http
import pytest
from batch_stack import CHAT, MODEL, TOKEN, Stack, jsonl, line, ordered, results, until
from stub_worker import StubWorker

from penstock_contract import headers
from penstock_contract.on_behalf import Seals, Ticket, Towards, work

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Stack]:
    """One for all tests; a worker answers everything at once."""
    folder = tmp_path_factory.mktemp("stack")
    async with (
        batch_stack.stack(folder, "--max-file", "64Ki") as stack,
        StubWorker("json") as worker,
    ):
        stack.serve([worker.url])
        yield stack


async def test_bad_lines_are_named_and_nothing_runs(served: Stack) -> None:
    client = served.client()
    right = line("right")
    content = b"\n".join(
        (
            json.dumps(right).encode(),
            b"no json",
            b"[]",
            b"",
            json.dumps(right).encode(),
            json.dumps({**right, "custom_id": ""}).encode(),
            json.dumps({**right, "custom_id": "a", "method": "GET"}).encode(),
            json.dumps({**right, "custom_id": "b", "url": "/v1/completions"}).encode(),
            json.dumps({**right, "custom_id": "c", "body": {}}).encode(),
            json.dumps(line("d", stream=True)).encode(),
        )
    )
    batch = await ordered(client, content)
    failed = await until(client, batch.id, "failed")
    assert [(found.line, found.code, found.param) for found in failed.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "invalid_json_line", None),
        (5, "duplicate_custom_id", "custom_id"),
        (6, "missing_required_parameter", "custom_id"),
        (7, "invalid_method", "method"),
        (8, "mismatched_url", "url"),
        (9, "missing_required_parameter", "body.model"),
        (10, "invalid_request", "body.stream"),
    ]
    assert failed.output_file_id is None
    assert await served.gateway.metric("penstock_gateway_spare_arrivals_total") == 0


async def test_an_empty_file_fails(served: Stack) -> None:
    client = served.client()
    failed = await until(client, (await ordered(client, b"\n \n")).id, "failed")
    assert [found.code for found in failed.errors.data] == ["empty_file"]


async def test_requests_that_are_refused_for_good_are_in_the_error_file(served: Stack) -> None:
    client = served.client()
    lines = [line("right"), line("wrong", model="nobody")]
    done = await until(client, (await ordered(client, jsonl(lines))).id, "completed")
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
    (error,) = await results(client, done.error_file_id)
    assert (error["custom_id"], error["response"]["status_code"]) == ("wrong", 404)
    assert error["response"]["body"]["error"]["code"] == "model_not_found"


async def test_batches_are_listed_in_pages(served: Stack) -> None:
    client = served.client()
    made = [(await ordered(client, jsonl([line("one")]))).id for _ in range(5)]
    first = await client.batches.list(limit=2)
    assert [found.id for found in first.data] == made[:-3:-1]
    assert first.has_more
    walked = [found.id async for found in client.batches.list(limit=2)]
    assert walked[:5] == made[::-1]
    assert len(walked) == len(set(walked))
    for name in made:  # what they write is in others' lists of files
        await until(client, name, "completed")


async def test_a_batch_is_refused_that_cannot_be_run(served: Stack) -> None:
    client = served.client()
    file = await client.files.create(file=("a.jsonl", jsonl([line("one")])), purpose="batch")
    right: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    for wrong in (
        {"endpoint": "/v1/models"},
        {"endpoint": None},
        {"completion_window": "a day"},
        {"completion_window": "400h"},
        {"metadata": {"a": 1}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
        {"output_expires_after": {"anchor": "created_at", "seconds": "9" * 5000}},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(**{**right, **wrong})
        param = refused.value.param or ""
        assert param.startswith(next(iter(wrong))) or "expires" in param
    with pytest.raises(openai.NotFoundError):
        await client.batches.create(**{**right, "input_file_id": "../../etc/passwd"})


async def test_forged_tickets_open_nothing(served: Stack) -> None:
    forged = {headers.ON_BEHALF: "gateway.1.YW5u." + "0" * 64}
    client = served.client().with_options(default_headers=forged)
    chat: Any = client.chat.completions
    with pytest.raises(openai.AuthenticationError):
        await chat.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    own = [found.id async for found in served.client().files.list()]
    assert [found.id async for found in client.files.list()] == own  # at the edge it is dropped
    straight = openai.AsyncOpenAI(base_url=f"{served.service.url}/v1", api_key="x", max_retries=0)
    async with straight:
        with pytest.raises(openai.AuthenticationError):
            await straight.with_options(default_headers=forged).files.list()


async def test_a_ticket_is_good_for_the_request_that_it_was_made_for(served: Stack) -> None:
    seals, now = Seals((TOKEN,)), time.time()
    body = json.dumps({"model": MODEL, "prompt": "A list", "max_tokens": 1}).encode()
    path, files = "/v1/completions", "/v1/files"
    line = seals.seal(Towards.GATEWAY, Ticket("", work("POST", path, body)), now)
    other = body.replace(b"A list", b"Others")
    kind = {"content-type": "application/json"}
    async with plain_http.client(served.gateway.url) as client:
        for where, what, status in ((path, body, 200), (path, other, 401), (CHAT, body, 401)):
            own = {headers.ON_BEHALF: line, **kind}
            assert (await client.post(where, content=what, headers=own)).status_code == status
    listing = seals.seal(Towards.BATCHES, Ticket("", work("GET", files)), now)
    async with plain_http.client(served.service.url) as client:
        for method, where, status in (("GET", files, 200), ("DELETE", f"{files}/a", 401)):
            own = {headers.ON_BEHALF: listing}
            assert (await client.request(method, where, headers=own)).status_code == status


async def test_a_second_service_leaves_the_folder_alone(stack: Stack) -> None:
    second = await asyncio.create_subprocess_exec(
        *stack.service.command,
        "--port=1",
        env=stack.service.environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await second.communicate()
    assert second.returncode == 2
    assert b"belongs to another batch service" in said


async def test_a_file_is_kept_listed_and_deleted(served: Stack) -> None:
    client = served.client()
    content = jsonl([line("one")])
    file = await client.files.create(
        file=("täst.jsonl", content),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (file.object, file.bytes, file.filename) == ("file", len(content), "täst.jsonl")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 7200
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).read() == content
    assert file.id in [found.id async for found in client.files.list(purpose="batch", limit=1)]
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


async def test_a_file_that_a_batch_reads_stays(served: Stack) -> None:
    served.serve([])
    await served.gateway.until(lambda: _nobody(served))  # so that the batch waits
    client = served.client()
    batch = await ordered(client, jsonl([line("one")]))
    with pytest.raises(openai.BadRequestError, match=batch.id):
        await client.files.delete(batch.input_file_id)
    await client.batches.cancel(batch.id)
    await until(client, batch.id, "cancelled")
    assert (await client.files.delete(batch.input_file_id)).deleted


async def _nobody(served: Stack) -> bool:
    return not (await served.gateway.workers()).workers


@pytest.mark.parametrize(
    ("wrong", "refusal"),
    [
        ({"purpose": "fine-tune"}, openai.BadRequestError),
        ({"file": ("a/../b", b"x")}, openai.BadRequestError),
        ({"file": ("a", b"x" * (64 << 10) + b"x")}, openai.APIStatusError),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, openai.BadRequestError),
    ],
)
async def test_uploads_are_refused_that_are_wrong(
    served: Stack, wrong: dict[str, Any], refusal: type[openai.APIStatusError]
) -> None:
    client = served.client()
    before = [found.id async for found in client.files.list()]
    right: dict[str, Any] = {"file": ("a", b"x"), "purpose": "batch"}
    with pytest.raises(refusal) as refused:
        await client.files.create(**{**right, **wrong})
    assert refused.value.status_code in (400, 413)
    assert [found.id async for found in client.files.list()] == before
    assert not [found for found in (served.service.folder / "files").iterdir() if found.suffix]


async def test_what_is_no_form_is_refused(served: Stack) -> None:
    async with plain_http.client(f"{served.gateway.url}/v1") as client:
        plain = await client.post("/files", content=b"x")
        assert plain.status_code == 415
        kind = {"content-type": "multipart/form-data; boundary=b"}
        broken = await client.post("/files", content=b"--b\r\nx", headers=kind)
        assert broken.status_code == 400
        assert broken.json()["error"]["type"] == "invalid_request_error"
        assert (await client.get("/files?limit=0")).status_code == 400
        assert (await client.get("/files/../../etc/passwd")).status_code == 404
        assert (await client.get("/files/%2e%2e%2fbatches.db/content")).status_code == 404
        for path in ("/files/..", "/files/%2e%2e/%2e%2e/metrics", "/files/a/b/c", "/batches/a%00"):
            head = f"GET /v1{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            said = await served.gateway.raw(head.encode())  # a client library would tidy it
            assert b" 404 " in said.partition(b"\r\n")[0]
        hidden = b"GET /v1/files/../../metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert b" 404 " in (await served.gateway.raw(hidden)).partition(b"\r\n")[0]
        assert (await client.put("/batches", content=b"{}")).status_code == 405


async def test_a_file_as_large_as_may_be_is_taken(served: Stack) -> None:
    client = served.client()
    file = await client.files.create(file=("a", b"x" * (64 << 10)), purpose="batch")
    assert file.bytes == 64 << 10


async def test_an_upload_that_is_broken_off_leaves_nothing_and_is_nobodys_failure(
    served: Stack,
) -> None:
    files = served.service.folder / "files"
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n"
        "content-type: multipart/form-data; boundary=xx\r\n\r\n"
        '--xx\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nbegun'
    )
    _, writer = await asyncio.open_connection("127.0.0.1", served.gateway.port)
    writer.write(head.encode())

    async def begun() -> bool:
        return any(files.glob("*.part"))

    async def gone() -> bool:
        return not await begun()

    await served.gateway.until(begun)
    writer.close()
    await served.gateway.until(gone)
    await served.client().files.list()  # what is logged has been logged by then
    assert "ClientDisconnect" not in served.service.said() + served.gateway.said()


@pytest.mark.parametrize("host", ["x/v1/batches?", "x/v1/batches#", "x"])
async def test_a_host_does_not_change_what_is_asked_for(served: Stack, host: str) -> None:
    head = f"GET /v1/files/none HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    answer = await served.gateway.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"No such file: none" in answer
