"""What is kept of vLLM's streams, and what of them goes on, however the network cuts them."""

import itertools
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_auditor import Recording, Verdict, audit
from vllm_stand_in import CHAT, Answer, prompt_of, text_of

from penstock_gateway.relay.continuable import PLAIN, Plan, plan
from penstock_gateway.relay.outline import LONGEST_STOP, MAX_BODY, MOST_STOPS
from penstock_gateway.relay.request import parse_json
from penstock_gateway.relay.stop_strings import StopStrings
from penstock_gateway.relay.token_ids import MOST, TokenIds
from penstock_gateway.relay.token_stream import TokenStream

MESSAGES = [{"role": "user", "content": "hi"}]
USAGES: tuple[Any, ...] = (
    None,
    {"include_usage": True},
    {"include_usage": True, "continuous_usage_stats": True},
)


def request(path: str, **options: Any) -> dict[str, Any]:
    asked = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    return {"model": "m", "stream": True, "max_tokens": 24, **asked, **options}


def planned(body: Any, path: str, parsers: tuple[str, ...] = ()) -> Plan | None:
    return plan(parse_json(orjson.dumps(body)).outline, path, parsers)


def opened(body: Any, path: str, parsers: tuple[str, ...] = ()) -> TokenStream:
    found = planned(body, path, parsers)
    assert found is not None
    return TokenStream(found)


def fed(stream: TokenStream, data: bytes, cuts: set[int]) -> bytes:
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return b"".join(stream.feed(data[a:b]) for a, b in itertools.pairwise(edges))


def judged(stream: bytes) -> Verdict:
    return audit(Recording(status=200, body=stream, clean_end=True), include_usage=False)


PATHS = st.sampled_from([CHAT, PLAIN])
CUTS = st.sets(st.integers(1, 8000), max_size=40)


@given(PATHS, st.sampled_from(USAGES), CUTS, st.integers(1, 4), st.booleans())
def test_the_client_gets_what_vllm_writes_when_nobody_asks_for_ids(
    path: str, usage: Any, cuts: set[int], per_event: int, shows: bool
) -> None:
    body = request(path, stream_options=usage, **({"return_token_ids": True} if shows else {}))
    stream = opened(body, path)
    asked = json.loads(stream.asking(orjson.dumps(body), begun=False))
    assert asked == {**body, "return_token_ids": True}
    answer = b"".join(Answer(path, asked, per_event=per_event).events())
    assert fed(stream, answer, cuts) == b"".join(Answer(path, body, per_event=per_event).events())
    assert stream.done
    assert stream.tokens == len(prompt_of(body)) + 24


@given(PATHS, st.sampled_from(USAGES), CUTS, st.integers(0, 8000), st.integers(1, 3), st.booleans())
def test_a_stream_that_breaks_goes_on_as_if_it_had_not(
    path: str, usage: Any, cuts: set[int], end: int, per_event: int, shows: bool
) -> None:
    body = request(path, stream_options=usage, return_token_ids=shows)
    stream = opened(body, path)
    whole = b"".join(Answer(path, body).events())
    asked = json.loads(stream.asking(orjson.dumps(body), begun=False))
    answer = b"".join(Answer(path, asked, per_event=per_event).events())
    shown = fed(stream, answer[:end], cuts)
    if stream.done:
        return
    if stream.whole:
        shown += stream.ending()
    elif not shown or not stream.resumable:
        return
    else:
        stream.restart(begun=True)
        rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
        if (ids := stream.doubtful) and text_of(json.loads(b"[%b]" % ids)).endswith("\ufffd"):
            return
        further = Answer(path, rest, request_id="2", created=7)
        shown += fed(stream, b"".join(further.events()), cuts)
        assert stream.done
    verdict = judged(shown)
    assert verdict.texts == judged(whole).texts
    assert verdict.finish_reasons == {0: "length"}
    told = {json.loads(e)["id"] for e in Recording(body=shown).events() if e != "[DONE]"}
    assert len(told) == 1
    if usage:
        assert verdict.usage is not None
        prompt = len(prompt_of(body))
        assert verdict.usage["prompt_tokens"] == prompt
        assert verdict.usage["completion_tokens"] == 24
        assert verdict.usage["total_tokens"] == prompt + 24
    assert stream.tokens == len(prompt_of(body)) + 24
    if not shows:
        assert b'token_ids":[' not in shown


@st.composite
def stop_strings(draw: st.DrawFn, path: str) -> list[str]:
    """Return stop strings, of which most are in the answer."""
    text = judged(b"".join(Answer(path, request(path)).events())).texts[0]
    found = []
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text) - 1))
        found.append(text[begin : begin + draw(st.integers(1, 20))])
    return [*found, *draw(st.lists(st.text("w1€ ", min_size=1, max_size=9), max_size=1))]


@given(st.data(), PATHS, st.sampled_from(USAGES), CUTS, st.integers(1, 3))
def test_stop_strings_end_an_answer_where_they_would_have(
    data: st.DataObject, path: str, usage: Any, cuts: set[int], per_event: int
) -> None:
    body = request(path, stream_options=usage, stop=data.draw(stop_strings(path)))
    whole = judged(b"".join(Answer(path, body, per_event=per_event).events()))
    stream, shown, request_body = opened(body, path), b"", orjson.dumps(body)
    for attempt in range(3):  # the last one does not break
        asked = json.loads(stream.asking(request_body, begun=attempt > 0))
        answer = b"".join(
            Answer(path, asked, request_id=str(attempt), per_event=per_event).events()
        )
        end = data.draw(st.integers(0, len(answer))) if attempt < 2 else len(answer)
        shown += fed(stream, answer[:end], cuts)
        if stream.done or stream.whole or not shown:
            break
        assert not stream.misread
        if not stream.resumable:
            return
        stream.restart(begun=True)
        if ids := stream.doubtful:
            text = text_of(json.loads(b"[%b]" % ids))
            fits = stream.settle(text.lstrip(" "))
            assert fits is not text.endswith("\ufffd")
            if not fits:
                return
    if not shown:
        return
    shown += b"" if stream.done else stream.ending()
    verdict = judged(shown)
    assert verdict.texts == whole.texts
    assert verdict.finish_reasons == whole.finish_reasons
    assert b'token_ids":[' not in shown


def test_of_two_stop_strings_across_the_break_the_first_that_is_complete_counts() -> None:
    strings = StopStrings(("ab c", " cd"))
    strings.note(b"")
    strings.restart()
    assert strings.settle("xyzab", "xyz") is False  # three characters are kept back, and not two
    strings = StopStrings(("ab c", " cd"))
    strings.note(b"")
    strings.restart()
    assert strings.settle("xyzzab", "xyz")
    assert strings.pass_on("", over=True, stop=" cd") == ("z", "ab c")


def test_text_that_does_not_fit_what_was_shown_is_not_gone_on_with() -> None:
    body = request(PLAIN, stop="never")
    events = list(Answer(PLAIN, {**body, "return_token_ids": True}).events())
    stream = broken(events[:8], body, PLAIN)
    stream.restart(begun=True)
    text = text_of(json.loads(b"[%b]" % stream.doubtful))
    for wrong in (text[:-1], text + "x", text[-3:], "", text + "\ufffd"):
        other = broken(events[:8], body, PLAIN)
        other.restart(begun=True)
        assert not other.settle(wrong)
        assert not other.resumable
    assert stream.settle(text)


def test_an_answer_that_ends_at_once_elsewhere_shows_what_was_kept_back() -> None:
    body = request(PLAIN, stop="never")
    events = list(Answer(PLAIN, {**body, "return_token_ids": True}).events())
    whole = judged(b"".join(Answer(PLAIN, body).events())).texts[0]
    stream = broken(events[:23], body, PLAIN)
    shown = b"".join(events[:23])
    stream.restart(begun=True)
    assert stream.settle(text_of(json.loads(b"[%b]" % stream.doubtful)))
    rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
    assert rest["max_tokens"] == 1
    shown += b"".join(map(stream.feed, Answer(PLAIN, rest).events()))
    assert judged(shown.replace(b"cmpl-2", b"cmpl-1")).texts == {0: whole}


@given(st.integers(1, 20), st.integers(1, 3))
def test_places_in_the_text_go_on_where_they_were(end: int, per_event: int) -> None:
    body = request(PLAIN, logprobs=1)
    asked = {**body, "return_token_ids": True}
    stream = opened(body, PLAIN)
    events = list(Answer(PLAIN, asked, per_event=per_event).events())
    shown = b"".join(map(stream.feed, events[:end]))
    if not stream.done and not stream.whole:
        if not stream.resumable:  # half a character, whose token the client has seen
            return
        stream.restart(begun=True)
        if (
            b"," in stream.doubtful
            and text_of(json.loads(b"[%b]" % stream.doubtful))[-1] == "\ufffd"
        ):
            return
        rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
        shown += b"".join(map(stream.feed, Answer(PLAIN, rest, per_event=per_event).events()))
    found, whole = places(shown), places(b"".join(Answer(PLAIN, body).events()))
    assert found == whole[: len(found)]


def places(stream: bytes) -> list[int]:
    """Return where tokens begin, as the events of plain completions tell it."""
    told = [json.loads(e)["choices"] for e in Recording(body=stream).events() if e != "[DONE]"]
    return [at for (choice,) in told for at in choice["logprobs"]["text_offset"]]


def test_no_more_ids_are_kept_than_a_bound() -> None:
    ids = TokenIds()
    ids.begin(b",".join([b"7"] * (MOST - 2)))
    ids.hold(b"8,9")
    assert ids.show() == 2
    assert ids.last(3) == b"8,9"
    assert ids.hold(b"10") == 1
    assert not ids.kept
    assert ids.so_far() == b""
    assert (ids.prompt, ids.answer, ids.held) == (MOST - 2, 2, 1)  # they count all the same


@pytest.mark.parametrize("told", [b"x", b"-1", b"1,,2", b"4294967296"])
def test_what_is_no_id_is_not_kept(told: bytes) -> None:
    ids = TokenIds()
    ids.begin(told)
    assert not ids.kept


def broken(answer: list[bytes], body: Any, path: str) -> TokenStream:
    """Return a stream of which these events have come."""
    stream = opened(body, path)
    for event in answer:
        stream.feed(event)
    return stream


def test_half_a_character_that_was_not_shown_is_drawn_again() -> None:
    body = request(PLAIN, return_token_ids=None)
    asked = {**body, "return_token_ids": True}
    events = list(Answer(PLAIN, asked).events())
    half = next(n for n, event in enumerate(events) if b'"text":""' in event)
    stream = broken(events[: half + 1], body, PLAIN)
    stream.restart(begun=True)
    rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
    assert len(rest["prompt"]) == len(prompt_of(body)) + half
    assert rest["max_tokens"] == 24 - half
    told = broken(events[: half + 1], {**body, "return_token_ids": True}, PLAIN)
    assert not told.resumable  # the client has seen the id


def test_several_ids_of_one_event_are_to_be_read_back() -> None:
    body = request(CHAT)
    asked = {**body, "return_token_ids": True}
    assert broken(list(Answer(CHAT, asked).events())[:3], body, CHAT).doubtful == b""
    assert broken(list(Answer(CHAT, asked, per_event=2).events())[:3], body, CHAT).doubtful


def test_least_tokens_are_fewer_for_the_rest_and_a_cut_prompt_is_not_cut_again() -> None:
    body = request(PLAIN, min_tokens=4, truncate_prompt_tokens=2, seed=7)
    stream = broken(
        list(Answer(PLAIN, {**body, "return_token_ids": True}).events())[:1], body, PLAIN
    )
    stream.restart(begun=True)
    rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
    assert (rest["min_tokens"], rest["truncate_prompt_tokens"], rest["seed"]) == (3, None, 7)


def test_a_worker_that_does_not_take_ids_of_a_prompt_is_found_out() -> None:
    body = request(CHAT)
    asked = {**body, "return_token_ids": True}
    events = list(Answer(CHAT, asked).events())
    assert broken(events[:3], body, CHAT).resumable
    stream = broken(events[:3], body, CHAT)
    stream.restart(begun=True)
    assert b"".join(map(stream.feed, events)) == b""
    assert stream.misread
    assert not stream.resumable


def test_a_stream_without_ids_cannot_go_on() -> None:
    body = request(CHAT)
    stream = broken(list(Answer(CHAT, body).events())[:3], body, CHAT)
    assert not stream.resumable
    assert stream.tokens == 0


def test_done_without_a_reason_is_no_end() -> None:
    body = request(CHAT)
    *events, done = Answer(CHAT, {**body, "return_token_ids": True}).events()
    stream = broken(events[:3], body, CHAT)
    assert stream.feed(done) == b""
    assert stream.aborted
    assert stream.resumable


@pytest.mark.parametrize("path", [CHAT, PLAIN])
@pytest.mark.parametrize("usage", USAGES)
def test_a_vllm_that_knows_nothing_of_ids_is_passed_on_to_its_end(path: str, usage: Any) -> None:
    body = request(path, stream_options=usage)
    answer = b"".join(Answer(path, body).events())
    for unknown in (b',"prompt_token_ids":null', b',"prompt_text":null', b',"token_ids":null'):
        answer = answer.replace(unknown, b"")
    stream = opened(body, path)
    assert fed(stream, answer, {700}) == answer
    assert stream.done
    assert not stream.aborted
    assert not stream.resumable


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_an_end_that_tells_no_ids_is_one(path: str) -> None:
    body = request(path, max_tokens=3)
    *events, last, done = Answer(path, {**body, "return_token_ids": True}).events()
    at = last.index(b'"token_ids":[')
    stream = broken([*events, last[:at] + b'"token_ids":null}]}\n\n'], body, path)
    assert stream.whole
    assert stream.feed(done) == done
    assert stream.done


def test_ids_without_those_of_the_prompt_stay_here_and_cannot_go_on() -> None:
    body = request(CHAT, stream_options={"include_usage": True})
    role, *events, _, _ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    end = role.index(b',"prompt_token_ids"')
    stream = opened(body, CHAT)
    shown = fed(stream, role[:end] + b"}\n\n" + b"".join(events), set())
    assert b'token_ids":[' not in shown
    assert not stream.resumable
    assert stream.whole
    assert stream.ending() == b"data: [DONE]\n\n"  # it does not know what was used


def test_an_event_for_nothing_but_ids_goes_to_nobody_who_asked_for_none() -> None:
    """A parser that has no text yet: vLLM writes such an event only where ids are asked for."""
    for options, shown in (
        ({}, False),
        ({"return_token_ids": True}, True),
        ({"logprobs": 1}, True),
    ):
        body = request(CHAT, **options)
        role, text, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
        stream = opened(body, CHAT, ("hermes",))
        stream.feed(role)
        assert bool(stream.feed(instead_of_text(text, b"{}"))) is shown
        assert stream.tokens == len(prompt_of(body)) + 1
        end = instead_of_text(text, b"{}").replace(b'reason":null', b'reason":"stop"')
        assert stream.feed(end)


def test_reasoning_that_ends_within_an_event_goes_on() -> None:
    body = request(CHAT)
    role, text, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    thought = instead_of_text(text, b'{"reasoning":" so"}')
    last = instead_of_text(text, b'{"content":null,"reasoning":" it is"}')
    stream = opened(body, CHAT, ("deepseek_r1",))
    stream.feed(role + thought)
    stream.restart(begun=True)
    rest = Answer(CHAT, json.loads(stream.asking(orjson.dumps(body), begun=True))).events()
    stream.feed(next(rest))
    assert b'" it is"' in stream.feed(last)
    assert b'"content"' in stream.feed(text)
    assert not stream.misread


def test_another_engine_that_begins_anew_is_not_the_rest() -> None:
    """Both ways, when a deployment changes its engine: the text would be there twice."""
    body = request(CHAT)
    answer = list(Answer(CHAT, {**body, "return_token_ids": True}).events())
    ours = [
        b": resume id=a created=1 seed=1\n: tokens 0 1\n" + answer[1],
        b": tokens 0 2\n" + answer[2],
    ]
    stream = broken(answer[:3], body, CHAT)
    stream.restart(begun=True)
    assert stream.feed(ours[0]) == b""
    assert stream.misread
    assert stream.resumable  # at one of the same engine
    begun = opened(body, CHAT)
    begun.feed(ours[0])
    begun.restart(begun=True)
    assert begun.feed(b"".join(answer)) == b""
    assert begun.misread
    assert begun.resumable
    begun.restart(begun=True)
    assert begun.feed(ours[1]) == answer[2]


def test_usage_that_does_not_say_what_was_cached_goes_on() -> None:
    body = request(CHAT, stream_options={"include_usage": True})
    stream = broken(list(Answer(CHAT, {**body, "return_token_ids": True}).events())[:3], body, CHAT)
    stream.restart(begun=True)
    rest = json.loads(stream.asking(orjson.dumps(body), begun=True))
    told = b"".join(Answer(CHAT, rest).events())
    at = told.index(b'"cached_tokens":')
    told = told[:at] + b'"cached_tokens":null' + told[told.index(b"}", at) :]
    assert b'"completion_tokens":24' in stream.feed(told)
    assert stream.done


def instead_of_text(event: bytes, delta: bytes) -> bytes:
    """Return an event of a chat with something else for its text."""
    return event[: event.index(b'{"content"')] + delta + event[event.index(b',"logprobs"') :]


def test_what_is_no_text_cannot_go_on() -> None:
    body = request(CHAT)
    role, text, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    other = instead_of_text(text, b'{"reasoning":"so"}')
    assert not broken([role, other], body, CHAT).resumable
    stream = broken([role, other, text], body, CHAT)
    assert stream.resumable  # the reasoning has ended
    stream.restart(begun=True)
    rest = Answer(CHAT, json.loads(stream.asking(orjson.dumps(body), begun=True))).events()
    stream.feed(next(rest))
    assert stream.feed(other) == b""
    assert stream.misread


def test_reasoning_goes_on_where_its_parser_sees_that_a_prompt_leaves_it_open() -> None:
    body = request(CHAT)
    role, text, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    thought = instead_of_text(text, b'{"reasoning":" so"}')
    stream = opened(body, CHAT, ("qwen3",))
    assert [bool(stream.feed(event)) for event in (role, thought)] == [True, True]
    assert stream.resumable
    assert stream.doubtful
    assert stream.settle("so")
    stream.restart(begun=True)
    rest = Answer(CHAT, json.loads(stream.asking(orjson.dumps(body), begun=True))).events()
    assert stream.feed(next(rest)) == b""  # the role
    assert b'"reasoning":" so"' in stream.feed(thought)
    assert b'"content"' in stream.feed(text)
    assert stream.feed(thought) == b""  # not after the answer has begun
    assert stream.misread


def test_an_answer_that_may_call_tools_goes_on_until_it_calls_one() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = request(CHAT, tools=tools, tool_choice="auto")
    role, text, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    call = instead_of_text(text, b'{"tool_calls":[{"index":0}]}')
    stream = opened(body, CHAT, ("hermes",))
    stream.feed(role + text)
    stream.restart(begun=True)
    rest = Answer(CHAT, json.loads(stream.asking(orjson.dumps(body), begun=True))).events()
    stream.feed(next(rest))
    assert b'"tool_calls"' in stream.feed(call)
    stream.feed(text)
    assert not stream.resumable
    for parsers in ((), ("llama3_json",)):  # knows a call by how an answer begins
        assert planned(body, CHAT, parsers) is None
    named = {**body, "tool_choice": "required"}
    assert planned(named, CHAT, ("hermes",)) is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("w7", True),
        (" w7", True),
        ("\ufffd w7", True),
        ("\ufffd", False),
        (" w7<", False),
        (" w7\ufffd", False),
        ("", False),
    ],
)
def test_a_parser_that_keeps_text_back_is_seen_by_what_its_ids_mean(text: str, whole: bool) -> None:
    body = request(CHAT)
    role, event, *_ = Answer(CHAT, {**body, "return_token_ids": True}).events()
    stream = opened(body, CHAT, ("hermes",))
    stream.feed(role + instead_of_text(event, b'{"content":" w7"}'))
    assert stream.doubtful
    assert stream.settle(text) is whole
    assert stream.resumable is whole


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2}, {"stop": ["xx"], "min_tokens": 1}, {"stop": 1}, {"stop": [1]}, {"echo": True},
        {"frequency_penalty": 0.5}, {"suffix": "x"},
        {"presence_penalty": -1}, {"bad_words": ["x"]}, {"use_beam_search": True},
        {"response_format": {"type": "json_object"}}, {"structured_outputs": {"regex": "a"}},
        {"repetition_detection": {}}, {"vllm_xargs": {"a": 1}}, {"not_known_yet": 1},
        {"prompt_logprobs": 0}, {"kv_transfer_params": {"a": 1}}, {"max_tokens": "x"},
        {"min_tokens": 1.5},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_what_must_know_the_answer_so_far_is_not_continued(path: str, options: Any) -> None:
    assert planned(request(path, **options), path) is None


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (PLAIN, {"prompt": ["a", "b"]}), (PLAIN, {"prompt": [[1], [2]]}),
        (PLAIN, {"logprobs": 0, "stop": "xx"}), (CHAT, {"return_token_ids": True, "stop": "xx"}),
        (CHAT, {"stop": ["x"] * (MOST_STOPS + 1)}), (PLAIN, {"stop": "x" * (LONGEST_STOP + 1)}),
        (PLAIN, {"prompt_embeds": "x"}), (CHAT, {"tools": [{}]}), (CHAT, {"tool_choice": "auto"}),
        (CHAT, {"messages": [{"content": [{"type": "image_url"}]}]}), (CHAT, {"messages": "x"}),
        (CHAT, {"include_reasoning": False}), ("/v1/embeddings", {}),
    ],
)  # fmt: skip
def test_what_another_worker_would_read_otherwise_is_not_continued(path: str, options: Any) -> None:
    assert planned(request(path, **options), path) is None


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (PLAIN, {"prompt": [1, 2], "n": 1, "stop": None}), (PLAIN, {"prompt": [[1, 2]]}),
        (PLAIN, {"logprobs": 0}), (PLAIN, {"stop": "x"}), (CHAT, {"stop": ["x", "yz"]}),
        (CHAT, {"logprobs": True, "top_logprobs": 2}), (CHAT, {"max_tokens": None}),
        (CHAT, {"response_format": {"type": "text"}, "tools": [], "frequency_penalty": 0.0}),
        (CHAT, {"messages": [{"content": [{"type": "text", "text": "a"}]}]}),
    ],
)  # fmt: skip
def test_what_makes_no_difference_is_continued(path: str, options: Any) -> None:
    assert planned(request(path, **options), path) is not None


def test_parsers_that_keep_text_back_and_long_requests_are_left_alone() -> None:
    body = request(CHAT)
    assert planned(body, CHAT, ("hermes", "qwen3")) is not None
    assert planned(body, CHAT, ("hermes", "openai_gptoss")) is None
    assert planned(request(CHAT, documents=[{"text": "w" * MAX_BODY}]), CHAT) is None
    assert planned(request(PLAIN), PLAIN, ("openai_gptoss",)) is not None
