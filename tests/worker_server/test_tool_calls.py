"""Calls are found in any text, however it is cut, and nothing that the model wrote is lost."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.text.tool_calls import CallPiece, ToolCalls
from penstock_worker.text.tool_format import HERMES, LLAMA3, ToolFormat, format_of

ROME = '{"name": "weather", "arguments": {"city": "Rome", "note": "\\"}{\\\\"}}'
OSLO = '{"name": "weather", "arguments": {"days": [1, {"x": 2}]}}'


def read(
    form: ToolFormat, *pieces: str, parallel: bool = True
) -> tuple[str, list[tuple[str, Any]], list[CallPiece]]:
    """Return the text, the calls joined, and the pieces of calls as they came."""
    reader = ToolCalls(form, parallel=parallel)
    found = [*map(reader.feed, pieces), reader.flush()]
    pieces_of = [piece for parsed in found for piece in parsed.calls]
    names = [piece.name for piece in pieces_of if piece.name]
    calls = [
        (name, "".join(piece.arguments for piece in pieces_of if piece.index == index))
        for index, name in enumerate(names)
    ]
    return "".join(parsed.text for parsed in found), calls, pieces_of


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


ANSWERS: dict[str, tuple[ToolFormat, str, str, list[str]]] = {
    "none": (HERMES, "Just <b>text</b>, {}", "Just <b>text</b>, {}", []),
    "one": (HERMES, tagged(ROME), "", ["weather"]),
    "text before": (HERMES, "Let me see.\n" + tagged(ROME), "Let me see.\n", ["weather"]),
    "two": (HERMES, tagged(ROME, OSLO), "", ["weather", "weather"]),
    "text behind": (HERMES, tagged(ROME) + "\nDone.", "\nDone.", ["weather"]),
    "other order": (
        HERMES,
        tagged('{"arguments": {"a": 1}, "name": "f"}'),
        "",
        ["f"],
    ),
    "arguments in a string": (
        HERMES,
        tagged('{"name": "f", "arguments": "{\\"a\\": 1}"}'),
        "",
        ["f"],
    ),
    "no arguments": (HERMES, tagged('{"name": "f"}'), "", ["f"]),
    "never closed": (HERMES, "<tool_call>" + ROME, "", ["weather"]),
    "not json": (HERMES, tagged("{oops"), tagged("{oops"), []),
    "cut head": (HERMES, '<tool_call>{"na', '<tool_call>{"na', []),
    "half a mark": (HERMES, "a <tool_", "a <tool_", []),
    "llama": (LLAMA3, '{"name": "f", "parameters": {"a": 1}}', "", ["f"]),
    "llama tag": (LLAMA3, '<|python_tag|>{"name": "f", "parameters": {}}', "", ["f"]),
    "llama two": (
        LLAMA3,
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        "",
        ["f", "g"],
    ),
    "llama text": (LLAMA3, "The answer is {}", "The answer is {}", []),
    "llama json": (LLAMA3, '{"answer": {"a": 1}}', '{"answer": {"a": 1}}', []),
    "llama no call": (LLAMA3, '{"name": "Rome"} it is', '{"name": "Rome"} it is', []),
    "llama nothing": (LLAMA3, "", "", []),
}


@pytest.mark.parametrize("case", ANSWERS)
@given(data=st.data())
def test_however_an_answer_is_cut_it_reads_the_same(case: str, data: st.DataObject) -> None:
    form, answer, text, names = ANSWERS[case]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)))))
    places = [0, *cuts, len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(places)]
    shown, calls, _ = read(form, *pieces)
    assert shown == text
    assert [name for name, _ in calls] == names
    assert (shown, calls) == read(form, answer)[:2]
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)


def test_arguments_are_passed_on_as_they_come() -> None:
    reader = ToolCalls(HERMES)
    answer = "<tool_call>" + ROME
    seen = [piece for letter in answer[:60] for piece in reader.feed(letter).calls]
    assert seen[0] == CallPiece(0, name="weather")
    assert "".join(piece.arguments for piece in seen[1:]) == '{"city": "Rome",'[: len(seen) - 1]


def test_text_is_passed_on_as_soon_as_it_can_be_no_mark() -> None:
    reader = ToolCalls(HERMES)
    assert reader.feed("a <to").text == "a "
    assert reader.feed("ast>").text == "<toast>"
    assert ToolCalls(LLAMA3).feed('{"answer').text == '{"answer'


@pytest.mark.parametrize("form", [HERMES, LLAMA3])
def test_a_single_call_drops_what_follows_it(form: ToolFormat) -> None:
    answer = tagged(ROME, OSLO) if form is HERMES else ROME + "; " + OSLO
    text, calls, _ = read(form, answer, parallel=False)
    assert (text, len(calls)) == ("", 1)


def test_templates_say_how_calls_are_written() -> None:
    assert format_of("{% if tools %}<tool_call>{{ 'arguments' }}</tool_call>{% endif %}") == HERMES
    assert format_of("""{% if tools %}'{"name": "' '"parameters": '{% endif %}""") == LLAMA3
    assert format_of("{{ messages }}") is None
    assert format_of("{{ tools }} <tool_call><function=f>arguments") is None
