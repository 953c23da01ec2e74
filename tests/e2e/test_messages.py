"""Anthropic's official client against real workers."""

from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.e2e


def test_a_streamed_message_is_the_one_that_is_not_streamed(stack: Any) -> None:
    asked = {
        "model": "pydoc",
        "max_tokens": 24,
        "extra_body": {"temperature": 0},
        "messages": [{"role": "user", "content": "What is a list?"}],
    }
    with anthropic.Anthropic(base_url=stack.url, api_key="any") as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    assert whole.content[0].text
    assert streamed.content[0].text == whole.content[0].text
    assert streamed.stop_reason == whole.stop_reason
    for field in ("input_tokens", "cache_read_input_tokens"):
        assert getattr(whole.usage, field) is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0
