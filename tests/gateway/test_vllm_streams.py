"""Streams of vLLM's pods that break go on at another one: gateway, and what vLLM writes."""

import asyncio
import json
from typing import Any

import pytest
import vllm_answers
from stream_auditor import Recording, Verdict, audit, record
from vllm_stand_in import CHAT, EURO, Answer, VllmStandIn, asked

from penstock_contract.api.engine import EngineType
from penstock_contract.fleet import FleetCanary

pytestmark = pytest.mark.anyio

PLAIN = "/v1/completions"
USAGE = {"include_usage": True}


def request(path: str, **options: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    return {"model": "m", "stream": True, "max_tokens": 24, **said, **options}


def undisturbed(path: str, body: Any) -> Verdict:
    whole = b"".join(Answer(path, body).events())
    return judged(Recording(status=200, body=whole, clean_end=True))


def judged(recording: Recording) -> Verdict:
    return audit(recording, include_usage=False)


async def ask(gateway: Any, path: str, body: Any, *workers: VllmStandIn) -> Recording:
    """Ask, and let those that break do so when the client has read what came before."""
    first = asyncio.Event()
    asking = asyncio.create_task(record(gateway.url, path, body, first_piece=first))
    await asyncio.wait_for(first.wait(), 60)
    for worker in workers:
        worker.passed.set()
    return await asyncio.wait_for(asking, 60)


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize(
    "last",
    [
        b"", vllm_answers.ENGINE_DEAD, vllm_answers.ABORTED, vllm_answers.DONE,
        b"data: garbage\n\n",
    ],
    ids=["killed", "engine dead", "told to end", "ended", "garbage"],
)  # fmt: skip
async def test_a_stream_that_breaks_goes_on_at_another(
    gateway: Any, path: str, last: bytes
) -> None:
    body = request(path, stream_options=USAGE)
    async with VllmStandIn(6, last) as dying, VllmStandIn() as other:
        recording = await serve_in_turn(gateway, dying, other, body, path)
        verdict, whole = judged(recording), undisturbed(path, body)
        assert verdict.outcome == "complete"
        assert verdict.texts == whole.texts
        assert verdict.finish_reasons == whole.finish_reasons
        assert verdict.usage is not None
        assert verdict.usage["total_tokens"] == verdict.usage["prompt_tokens"] + 24
        assert verdict.usage["completion_tokens"] == 24
        heads = {(e["id"], e["created"]) for e in chunks(recording)}
        assert len(heads) == 1
        assert b'token_ids":[' not in recording.body
        assert (len(dying.seen), len(other.seen)) == (1, 1)
        path_asked, rest = asked(other.seen[0])
        assert path_asked == path
        assert rest["max_tokens"] < 24
        assert await gateway.metric("penstock_gateway_resumes_total") == 1
        assert await gateway.metric("penstock_gateway_outcomes_total", outcome="complete") == 1


def chunks(recording: Recording) -> list[Any]:
    return [json.loads(event) for event in recording.events() if event != "[DONE]"]


async def serve_in_turn(
    gateway: Any, first: VllmStandIn, second: VllmStandIn, body: Any, path: str = CHAT
) -> Recording:
    """Ask the first worker, show the gateway the second, and break the first one's stream."""
    await gateway.serve(first, engine=EngineType.VLLM)
    begun = asyncio.Event()
    asking = asyncio.create_task(record(gateway.url, path, body, first_piece=begun))
    await asyncio.wait_for(begun.wait(), 60)
    await gateway.serve(first, second, engine=EngineType.VLLM)
    first.passed.set()
    return await asyncio.wait_for(asking, 60)


async def test_several_ids_of_one_event_are_read_back_before_it_goes_on(gateway: Any) -> None:
    body = request(CHAT)
    whole = next(at for at in range(3, 12) if not halved(body, 2, at))
    async with VllmStandIn(whole, per_event=2) as dying, VllmStandIn() as other:
        verdict = judged(await serve_in_turn(gateway, dying, other, body))
        (read_back, ids), (path, _) = map(asked, other.seen)
        assert (read_back, len(ids["tokens"]), path) == ("/detokenize", 2, CHAT)
        assert verdict.texts == undisturbed(CHAT, body).texts
        assert verdict.outcome == "complete"


async def test_a_stream_that_broke_inside_of_a_character_ends_with_an_error(gateway: Any) -> None:
    body = request(CHAT)
    inside = next(at for at in range(3, 12) if halved(body, 2, at))
    async with VllmStandIn(inside, per_event=2) as dying, VllmStandIn() as other:
        verdict = judged(await serve_in_turn(gateway, dying, other, body))
        assert [asked(seen)[0] for seen in other.seen] == ["/detokenize"]
        assert verdict.outcome == "error"
        assert verdict.finish_reasons == {}


def halved(body: Any, per_event: int, events: int) -> bool:
    """Whether the last of so many events has text, and ends with half a character."""
    told = list(Answer(CHAT, {**body, "return_token_ids": True}, per_event=per_event).events())
    (last,) = json.loads(told[events - 1][6:])["choices"]
    return bool(last["delta"]["content"]) and last["token_ids"][-1] == EURO[0]


@pytest.mark.parametrize("path", [CHAT, PLAIN])
async def test_a_stop_string_that_straddles_the_break_ends_the_answer(
    gateway: Any, path: str
) -> None:
    whole = undisturbed(path, request(path)).texts[0]
    body = request(path, stop=[whole[12:24], "never"], stream_options=USAGE)
    breaks_after = text_events(path, body)
    async with VllmStandIn(breaks_after) as dying, VllmStandIn() as other:
        recording = await serve_in_turn(gateway, dying, other, body, path)
        verdict = judged(recording)
        assert [asked(seen)[0] for seen in other.seen] == ["/detokenize", path]
        assert len(asked(other.seen[1])[1]["stop"]) == 2
        assert verdict.outcome == "complete"
        assert verdict.texts == {0: whole[:12]}
        assert verdict.finish_reasons == {0: "stop"}
        assert chunks(recording)[-2]["choices"][0]["stop_reason"] == whole[12:24]
        assert verdict.usage is not None


def text_events(path: str, body: Any) -> int:
    """Return how many events a stream has until its first text: most of it is kept back then."""
    told = [json.loads(e[6:])["choices"][0] for e in list(Answer(path, body).events())[:-2]]
    texts = [one.get("text") or one.get("delta", {}).get("content") for one in told]
    return next(at for at, text in enumerate(texts, 1) if text)


async def test_a_stream_that_has_told_its_end_needs_no_other_worker(gateway: Any) -> None:
    body = request(CHAT, stream_options=USAGE)
    async with VllmStandIn(25) as dying:  # the role and all tokens
        await gateway.serve(dying, engine=EngineType.VLLM)
        verdict = judged(await ask(gateway, CHAT, body, dying))
        assert verdict.outcome == "complete"
        assert verdict.texts == undisturbed(CHAT, body).texts
        assert verdict.usage is not None
        assert verdict.usage["completion_tokens"] == 24


@pytest.mark.parametrize("case", ["switched off", "schema", "parser", "older"])
async def test_what_cannot_be_continued_ends_with_an_error(gateway: Any, case: str) -> None:
    schema = {"response_format": {"type": "json_object"}}
    body = request(CHAT, **(schema if case == "schema" else {}))
    async with VllmStandIn(6) as dying, VllmStandIn(6, knows_ids=case != "older") as other:
        await gateway.serve(
            dying,
            other,
            engine=EngineType.VLLM,
            resume_streams=case != "switched off",
            parsers=("openai_gptoss",) if case == "parser" else (),
        )
        recording = await ask(gateway, CHAT, body, dying, other)
        verdict = judged(recording)
        assert verdict.outcome == "error"
        assert not recording.clean_end
        assert undisturbed(CHAT, body).texts[0].startswith(verdict.texts[0])
        if case != "older":
            assert len(dying.seen) + len(other.seen) == 1
            (seen,) = dying.seen + other.seen
            assert b"return_token_ids" not in seen.body


async def test_it_goes_on_at_the_revision_where_it_began(gateway: Any) -> None:
    async with VllmStandIn(6) as dying, VllmStandIn() as same, VllmStandIn() as newer:
        trial = FleetCanary(revision="new", weight=0)
        revisions = {dying: "old", same: "old", newer: "new"}
        await gateway.serve(dying, engine=EngineType.VLLM, revisions=revisions)
        begun = asyncio.Event()
        asking = asyncio.create_task(record(gateway.url, CHAT, request(CHAT), first_piece=begun))
        await asyncio.wait_for(begun.wait(), 60)
        await gateway.serve(
            dying, newer, same, engine=EngineType.VLLM, revisions=revisions, canary=trial
        )
        dying.passed.set()
        assert judged(await asyncio.wait_for(asking, 60)).outcome == "complete"
        assert (len(same.seen), len(newer.seen)) == (1, 0)


async def test_a_client_that_asks_for_ids_gets_them_all(gateway: Any) -> None:
    body = request(CHAT, return_token_ids=True)
    async with VllmStandIn(6) as dying, VllmStandIn() as other:
        recording = await serve_in_turn(gateway, dying, other, body)
        whole = Recording(body=b"".join(Answer(CHAT, body).events()))
        ids = [[c["choices"][0].get("token_ids") for c in chunks(r)] for r in (recording, whole)]
        assert ids[0] == ids[1]
