"""The official client against a real worker: what its users see, whatever the model's weights."""

import math
from typing import Any

from openai import OpenAI
from worker_process import ALIAS, NAME, WorkerProcess

GREEDY: dict[str, Any] = {"model": NAME, "temperature": 0}
ON = {"ignore_eos": True}
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What is a list?"}]}


def test_chat_answers_with_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, **QUESTION, max_completion_tokens=12)
    usage = answer.usage
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert usage is not None
    assert 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_content_may_come_as_text_parts(client: OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a list?"}]
    whole = client.chat.completions.create(**GREEDY, **QUESTION, max_tokens=8)
    split = client.chat.completions.create(
        **GREEDY, messages=[{"role": "user", "content": parts}], max_tokens=8
    )
    assert split.choices[0].message.content == whole.choices[0].message.content


def test_a_stream_adds_up_to_the_whole_answer_and_its_usage(client: OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, **QUESTION, max_tokens=24)
    chunks = list(
        client.chat.completions.create(
            **GREEDY,
            **QUESTION,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_stop_string_is_left_out_with_all_that_follows(client: OpenAI) -> None:
    options: dict[str, Any] = {"prompt": "A list is", "max_tokens": 24, "extra_body": ON}
    free = client.completions.create(**GREEDY, **options).choices[0].text
    middle = free[len(free) // 2 : len(free) // 2 + 3]
    stopped = client.completions.create(**GREEDY, **options, stop=[middle]).choices[0]
    assert stopped.text == free[: free.index(middle)]
    assert stopped.finish_reason == "stop"


def test_a_seed_fixes_every_choice_and_choices_differ(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "n": 3, "temperature": 5, "max_tokens": 16}
    first, second = (client.chat.completions.create(**options, **QUESTION, seed=7) for _ in "ab")
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1
    assert [choice.index for choice in first.choices] == [0, 1, 2]


def test_without_a_seed_answers_differ(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "temperature": 5, "max_tokens": 24}
    texts = {
        client.chat.completions.create(**options, **QUESTION).choices[0].message.content
        for _ in range(4)
    }
    assert len(texts) > 1


def test_chat_logprobs_describe_every_token(client: OpenAI) -> None:
    choice = client.chat.completions.create(
        **GREEDY, **QUESTION, max_tokens=6, logprobs=True, top_logprobs=3, extra_body=ON
    ).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert len(content) == 6
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.token == entry.top_logprobs[0].token  # greedy takes the likeliest
        assert entry.logprob <= 0.0
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1.0 + 1e-6


def test_completion_logprobs_have_the_older_shape(client: OpenAI) -> None:
    choice = client.completions.create(
        **GREEDY, prompt="A list is", max_tokens=5, logprobs=2, extra_body=ON
    ).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.tokens or []
    offsets = choice.logprobs.text_offset or []
    assert "".join(tokens) == choice.text
    assert [len(table) for table in choice.logprobs.top_logprobs or []] == [2] * 5
    assert all(
        choice.text[at:].startswith(token) for at, token in zip(offsets, tokens, strict=True)
    )


def test_several_prompts_are_answered_in_order(client: OpenAI) -> None:
    prompts = ["A list is", "A function"]
    both = client.completions.create(**GREEDY, prompt=prompts, max_tokens=6)
    each = [client.completions.create(**GREEDY, prompt=p, max_tokens=6) for p in prompts]
    assert [c.text for c in both.choices] == [answer.choices[0].text for answer in each]


def test_token_ids_are_prompts_too_and_echo_repeats_the_prompt(client: OpenAI) -> None:
    options: dict[str, Any] = {**GREEDY, "max_tokens": 5}
    text = client.completions.create(**options, prompt="A list is").choices[0].text
    # Behind the begin token comes the first byte of the character.
    found = client.post("/../tokenize", body={"prompt": "A list is"}, cast_to=object)
    ids: Any = dict(found)["tokens"]  # type: ignore[call-overload]
    assert client.completions.create(**options, prompt=ids).choices[0].text == text
    assert client.completions.create(**options, prompt=[ids, ids]).choices[1].text == text
    echoed = client.completions.create(**options, prompt="A list is", echo=True)
    assert echoed.choices[0].text == "A list is" + text


def test_ignore_eos_runs_to_the_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY, **QUESTION, max_tokens=200, extra_body=ON)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 200


def test_a_bias_of_100_decides_the_token(client: OpenAI) -> None:
    answer = client.completions.create(
        **GREEDY, prompt="A list is", max_tokens=3, logit_bias={"40": 100}, logprobs=0
    )
    assert answer.choices[0].logprobs is not None
    assert len(set(answer.choices[0].logprobs.tokens or [])) == 1


def test_models_are_listed_under_all_their_names(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME, ALIAS]
    assert client.models.retrieve(ALIAS).id == ALIAS


def test_a_repeated_prompt_is_read_from_the_cache(client: OpenAI, served: WorkerProcess) -> None:
    long = "The third chapter is about lists, tuples, sets and dictionaries. " * 6
    before = served.metric("vllm:prefix_cache_hits_total")
    for _ in range(2):
        answer = client.completions.create(**GREEDY, prompt=long, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= 16
    assert served.metric("vllm:prefix_cache_hits_total") > before


def test_different_salts_share_nothing(client: OpenAI) -> None:
    long = "The fourth chapter is about functions, classes, modules and packages. " * 6
    for salt in ("tenant-a", "tenant-b"):
        answer = client.completions.create(
            **GREEDY, prompt=long, max_tokens=2, extra_body={"cache_salt": salt}
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_cached_tokens_of_all_prompts_are_counted(client: OpenAI) -> None:
    prompts = [f"Chapter {n} is about many things that are worth knowing. " * 6 for n in (5, 6)]
    for _ in range(2):
        answer = client.completions.create(**GREEDY, prompt=prompts, max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    # All but the last, partial block of each prompt.
    cached = answer.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= answer.usage.prompt_tokens - 2 * 16


def test_logprob_bytes_of_a_split_character_join_to_it(client: OpenAI) -> None:
    # Behind the begin token comes the first byte of the character.
    found = client.post("/../tokenize", body={"prompt": "𓀀"}, cast_to=object)
    first: Any = dict(found)["tokens"][1]  # type: ignore[call-overload]
    answer = client.chat.completions.create(
        **GREEDY, **QUESTION, max_tokens=1, logprobs=True, logit_bias={str(first): 100}
    )
    assert answer.choices[0].logprobs is not None
    assert bytes((answer.choices[0].logprobs.content or [])[0].bytes or []) == "𓀀".encode()[:1]


def test_nothing_ends_an_answer_before_min_tokens(client: OpenAI) -> None:
    answer = client.completions.create(
        **GREEDY, prompt="A list is", max_tokens=16, stop=[" "], extra_body={"min_tokens": 8}
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens >= 8
