"""Pictures and sounds inside of prompts, which are fewer tokens than bytes."""

import base64
import json
import random
from typing import Any

import pytest

from penstock_gateway.relay.media import SIZE, counted
from penstock_gateway.relay.request import ParsedRequest, parse_json


def parsed(*parts: Any) -> ParsedRequest:
    messages = [{"role": "user", "content": list(parts)}]
    return parse_json(json.dumps({"model": "m", "messages": messages}).encode())


def inline(seed: int, size: int = 1 << 20) -> str:
    return base64.b64encode(random.Random(seed).randbytes(size)).decode()


def picture(seed: int) -> Any:
    url = f"data:image/png;base64,{inline(seed)}"
    return {"type": "image_url", "image_url": {"url": url}}


def sound(seed: int) -> Any:
    return {"type": "input_audio", "input_audio": {"format": "wav", "data": inline(seed)}}


def text(content: str) -> Any:
    return {"type": "text", "text": content}


@pytest.mark.parametrize("part", [picture, sound])
def test_one_counts_as_about_a_thousand_tokens(part: Any) -> None:
    words = text("What is this?")
    beside = parsed(words).size
    for count in (1, 3):
        size = parsed(words, *(part(seed) for seed in range(count))).size
        assert count * SIZE <= size - beside <= count * (SIZE + 200)


def test_others_are_other_prompts_and_the_same_is_the_same() -> None:
    assert parsed(picture(1)).prompt == parsed(picture(1)).prompt
    assert parsed(picture(1)).prompt != parsed(picture(2)).prompt
    longer = parsed(picture(1), text("and this?"))
    assert longer.prompt.startswith(parsed(picture(1)).prompt[:-2])


def test_a_text_counts_as_it_is_whatever_it_says() -> None:
    said = '{"image_url":{"url":"data:image/png;base64,' + inline(3) + '"},"data":"' + inline(4)
    assert parsed(text(said)).size > len(said)
    prompt = json.dumps(said).encode()
    assert counted(prompt) == prompt


def test_a_small_one_counts_as_it_is() -> None:
    url = "data:image/png;base64," + inline(5, 300)
    small = parsed({"type": "image_url", "image_url": {"url": url}}, text("w" * 2 * SIZE))
    assert url.encode() in small.prompt
