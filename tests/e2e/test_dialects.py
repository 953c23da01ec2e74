"""Other APIs than chat completions, with their official clients against real workers."""

from typing import Any

import openai
import pytest

anthropic = pytest.importorskip("anthropic")
pytestmark = pytest.mark.e2e

QUESTION = "What is a list?"
GREEDY = {"temperature": 0}


def answered(stack: Any) -> str:
    """Return what a plain chat completion answers."""
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="any") as client:
        found = client.chat.completions.create(
            model="pydoc",
            messages=[{"role": "user", "content": QUESTION}],
            max_completion_tokens=24,
            temperature=0,
        )
    return found.choices[0].message.content or ""


def test_a_message_is_what_a_chat_completion_answers_streamed_or_not(stack: Any) -> None:
    asked = {
        "model": "pydoc",
        "max_tokens": 24,
        "messages": [{"role": "user", "content": QUESTION}],
        "extra_body": GREEDY,
    }
    with anthropic.Anthropic(base_url=stack.url, api_key="any") as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    assert whole.content[0].text == streamed.content[0].text == answered(stack)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0


def test_a_response_is_what_a_chat_completion_answers_streamed_or_not(stack: Any) -> None:
    asked: dict[str, Any] = {"model": "pydoc", "input": QUESTION, "max_output_tokens": 24, **GREEDY}
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="any") as client:
        whole = client.responses.create(**asked)
        *_, last = client.responses.create(**asked, stream=True)
    streamed = last.response
    assert last.type == f"response.{whole.status}"
    assert whole.output_text == streamed.output_text == answered(stack)
    assert streamed.usage is not None
    assert whole.usage is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens > 0
