"""Whatever is wrong with a request: an error in OpenAI's shape that names the field."""

from typing import Any

import httpx
import plain_http
import pytest
from worker_process import NAME, WorkerProcess

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check an error's shape and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error


def post(served: WorkerProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return plain_http.post(served.url + path, json={"model": NAME, **body})


INVALID: dict[str, tuple[str, dict[str, Any], str]] = {
    "no-messages": (CHAT, {}, "messages"),
    "empty-messages": (CHAT, {"messages": []}, "messages"),
    "unknown-role": (CHAT, {"messages": [{"role": "cat", "content": "x"}]}, "messages[0].role"),
    "n": (CHAT, {"messages": MESSAGES, "n": 129}, "n"),
    "temperature": (CHAT, {"messages": MESSAGES, "temperature": -1}, "temperature"),
    "top-p": (CHAT, {"messages": MESSAGES, "top_p": 1.5}, "top_p"),
    "five-stops": (CHAT, {"messages": MESSAGES, "stop": list("abcde")}, "stop"),
    "empty-stop": (CHAT, {"messages": MESSAGES, "stop": ""}, "stop"),
    "logprobs-21": (CHAT, {"messages": MESSAGES, "top_logprobs": 21}, "top_logprobs"),
    "top-logprobs-alone": (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
    "max-tokens": (CHAT, {"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
    "min-tokens": (COMPLETIONS, {"prompt": "x", "max_tokens": 4, "min_tokens": 5}, "min_tokens"),
    "choices": (COMPLETIONS, {"prompt": ["x"] * 3, "n": 60}, "n"),
    "streamed-scores": (
        CHAT,
        {"messages": MESSAGES, "stream": True, "prompt_logprobs": 1},
        "prompt_logprobs",
    ),
    "stream-options-alone": (
        CHAT,
        {"messages": MESSAGES, "stream_options": {"include_usage": True}},
        "stream_options",
    ),
    "truncation": (
        COMPLETIONS,
        {"prompt": "x", "truncate_prompt_tokens": -2},
        "truncate_prompt_tokens",
    ),
    "salt": (CHAT, {"messages": MESSAGES, "cache_salt": "é" * 40}, "cache_salt"),
    "bias": (CHAT, {"messages": MESSAGES, "logit_bias": {"99999": 1}}, "logit_bias"),
    "stop-token": (CHAT, {"messages": MESSAGES, "stop_token_ids": [99999]}, "stop_token_ids"),
    "no-prompt": (COMPLETIONS, {}, "prompt"),
    "unknown-token": (COMPLETIONS, {"prompt": [1, 99999]}, "prompt"),
    "tool-choice-alone": (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, "tool_choice"),
    "logprobs": (COMPLETIONS, {"prompt": "x", "logprobs": 21}, "logprobs"),
    "unknown-token-to-decode": ("/detokenize", {"tokens": [99999]}, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_a_field_out_of_bounds_is_named(served: WorkerProcess, case: str) -> None:
    path, body, param = INVALID[case]
    error = refused(post(served, path, body), 400, "invalid_request")
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"stop": list("abcdefghi")}, "stop: List should have at most 4 items"),
        ({"stop": 7}, "stop: Input should be a valid string"),
        ({"prompt": [[1, -2]]}, "prompt[0][1]: Input should be greater than or equal to 0"),
        ({"prompt": []}, "prompt: List should have at least 1 item"),
    ],
)
def test_of_what_may_be_several_things_the_fault_of_what_was_given_is_told(
    served: WorkerProcess, body: dict[str, Any], words: str
) -> None:
    error = refused(post(served, COMPLETIONS, {"prompt": "x", **body}), 400, "invalid_request")
    assert error["message"].startswith(words)


def test_too_many_prompts_are_named_by_their_field(served: WorkerProcess) -> None:
    answer = post(served, COMPLETIONS, {"prompt": ["x"] * 65})
    assert refused(answer, 400, "invalid_request")["param"] == "prompt"


UNSUPPORTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "tools": (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "format": (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
    "grammar": (CHAT, {"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    "image": (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    "suffix": (COMPLETIONS, {"prompt": "x", "suffix": "y"}, "suffix"),
    "best-of": (COMPLETIONS, {"prompt": "x", "best_of": 3}, "best_of"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(served: WorkerProcess, case: str) -> None:
    path, body, param = UNSUPPORTED[case]
    answer = post(served, path, {"messages": MESSAGES, **body})
    assert refused(answer, 400, "unsupported_parameter")["param"] == param


IGNORED: dict[str, dict[str, Any]] = {
    "functions": {"functions": [{"name": "f"}]},
}


@pytest.mark.parametrize("field", IGNORED)
def test_what_would_change_the_answer_is_not_ignored(served: WorkerProcess, field: str) -> None:
    body = {"messages": MESSAGES, "max_tokens": 1, **IGNORED[field]}
    assert refused(post(served, CHAT, body), 400, "unsupported_parameter")["param"] == field


def test_accepted_and_unknown_fields_change_nothing(served: WorkerProcess) -> None:
    extra = {"user": "u", "metadata": {"a": "b"}, "store": False, "never_heard_of": [1]}
    before = served.metric("penstock_worker_ignored_fields_total")
    answer = post(served, CHAT, {"messages": MESSAGES, "max_tokens": 1, **extra})
    assert answer.status_code == 200
    assert served.metric("penstock_worker_ignored_fields_total") == before + 1


@pytest.mark.parametrize("field", ["n", "stream", "logprobs"])
def test_null_means_the_default(served: WorkerProcess, field: str) -> None:
    answer = post(served, CHAT, {"messages": MESSAGES, "max_tokens": 1, field: None})
    assert answer.status_code == 200, answer.text


def test_another_model_is_not_found(served: WorkerProcess) -> None:
    answer = post(served, CHAT, {"model": "nobody", "messages": MESSAGES})
    assert refused(answer, 404, "model_not_found")["param"] == "model"
    refused(plain_http.get(f"{served.url}/v1/models/org/nobody"), 404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 5000}, "max_tokens"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 5000}, "max_tokens"),
        pytest.param(
            COMPLETIONS,
            {"prompt": "word " * 2000},
            "prompt",
        ),
        pytest.param(
            CHAT,
            {"messages": MESSAGES, "max_completion_tokens": 5000},
            "max_completion_tokens",
        ),
    ],
)
def test_a_context_overflow_names_what_is_too_long(
    served: WorkerProcess, path: str, body: dict[str, Any], param: str
) -> None:
    answer = post(served, path, body)
    assert refused(answer, 400, "context_length_exceeded")["param"] == param


def test_more_output_than_the_context_says_nothing_of_a_prompt_it_did_not_read(
    served: WorkerProcess,
) -> None:
    answer = post(served, CHAT, {"messages": MESSAGES, "max_tokens": 5000})
    told = refused(answer, 400, "context_length_exceeded")["message"]
    assert told.endswith("tokens; 5000 were asked for. Lower max_tokens.")


def test_a_prompt_that_can_never_fit_is_refused_before_it_is_tokenised(
    served: WorkerProcess,
) -> None:
    huge = "a" * 20_000_000  # which takes seconds to tokenise
    for path, body in (
        (COMPLETIONS, {"prompt": huge}),
        (CHAT, {"messages": [{"role": "user", "content": huge}]}),
    ):
        answer = post(served, path, body)
        assert "letters" in refused(answer, 400, "context_length_exceeded")["message"]


JSON = {"content-type": "application/json"}


def test_a_body_that_is_not_json_is_refused(served: WorkerProcess) -> None:
    for content in (b"{", b"", b"\xff", b'{"a": NaN}'):
        refused(
            plain_http.post(served.url + CHAT, content=content, headers=JSON), 400, "invalid_json"
        )
    refused(plain_http.post(served.url + CHAT, content=b"[]", headers=JSON), 400, "invalid_request")


def test_another_content_type_is_refused(served: WorkerProcess) -> None:
    refused(plain_http.post(served.url + CHAT, content=b"{}"), 415, "unsupported_media_type")


def test_a_body_above_the_limit_is_refused(served: WorkerProcess) -> None:
    content = b" " * ((32 << 20) + 1)
    answer = plain_http.post(served.url + CHAT, content=content, headers=JSON)
    refused(answer, 413, "request_too_large")


def test_unknown_paths_and_methods_have_the_same_shape(served: WorkerProcess) -> None:
    refused(plain_http.get(f"{served.url}/v1/nothing"), 404, "not_found")
    refused(plain_http.get(f"{served.url}/docs"), 404, "not_found")
    refused(plain_http.get(served.url + CHAT), 405, "method_not_allowed")


def test_a_harmless_request_id_is_echoed_and_others_are_replaced(served: WorkerProcess) -> None:
    body = {"model": NAME, "messages": MESSAGES, "max_tokens": 1}
    for given, echoed in (("mine-1.a_B", True), ("a b", False), ("x" * 129, False)):
        answer = plain_http.post(served.url + CHAT, json=body, headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) is echoed
        assert answer.headers["x-penstock-epoch"]
        took = int(answer.headers["openai-processing-ms"])
        assert 0 <= int(answer.headers["x-penstock-ttft-ms"]) <= took + 1


def test_errors_carry_the_request_id_too(served: WorkerProcess) -> None:
    answer = plain_http.post(served.url + CHAT, json={}, headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    "body", [{"prompt": "A list is 日本語"}, {"messages": MESSAGES}], ids=["prompt", "messages"]
)
def test_tokenize_counts_and_detokenize_reverses(served: WorkerProcess, body: Any) -> None:
    found = post(served, "/tokenize", body).json()
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 1024
    text = post(served, "/detokenize", {"tokens": found["tokens"]}).json()["prompt"]
    assert body.get("prompt", "Hi") in text


def test_the_small_endpoints_answer(served: WorkerProcess) -> None:
    assert plain_http.get(f"{served.url}/health").json() == {"status": "ok"}
    assert plain_http.get(f"{served.url}/ping").status_code == 200
    assert plain_http.get(f"{served.url}/version").json()["version"]
