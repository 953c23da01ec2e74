"""Templates come from strangers: they render what they should and get at nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from worker_process import EXAMPLE_MODEL

from penstock_worker.text.chat_template import ChatTemplate, ChatTemplateError

MESSAGES = [{"role": "user", "content": "Hi"}]


def template(folder: Path, source: Any, **config: Any) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": source, **config}))
    return ChatTemplate(folder)


def test_the_example_model_marks_roles_and_asks_for_an_answer() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert ChatTemplate(EXAMPLE_MODEL).render(messages) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    )


def test_a_template_file_wins_over_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file")
    assert template(tmp_path, "configuration").render(MESSAGES) == "file"


def test_the_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    assert template(tmp_path, named).render(MESSAGES) == "b"


def test_tokens_come_as_text_or_as_objects(tmp_path: Path) -> None:
    found = template(
        tmp_path, "{{ bos_token }}{{ eos_token }}", bos_token="<s>", eos_token={"content": "</s>"}
    )
    assert found.render(MESSAGES) == "<s></s>"


def test_json_keeps_every_letter(tmp_path: Path) -> None:
    found = template(tmp_path, "{{ messages[0].content | tojson }}")
    assert found.render([{"role": "user", "content": "é<"}]) == '"é<"'


def test_a_templates_own_variables_can_be_set_and_no_others(tmp_path: Path) -> None:
    found = template(tmp_path, "{% if enable_thinking %}think{% endif %}{{ messages[0].content }}")
    assert found.render(MESSAGES) == "Hi"
    given = {"enable_thinking": True, "messages": "x", "tools": 1, "unknown": 2}
    assert found.render(MESSAGES, variables=given) == "thinkHi"


def test_developers_are_heard_by_templates_that_know_only_the_system(tmp_path: Path) -> None:
    told = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    roles = "{% for message in messages %}{{ message.role }} {% endfor %}"
    assert template(tmp_path, roles).render(told) == "system user "
    known = "{# developer #}" + roles
    assert template(tmp_path, known).render(told) == "developer user "


def test_a_template_for_tools_is_taken_where_there_are_some(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": "b"}]
    found = template(tmp_path, named)
    assert found.render(MESSAGES) == "b"
    assert found.render(MESSAGES, [{"a": 1}]) == "[{'a': 1}]"


def test_a_model_without_a_template_says_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="/v1/completions"):
        ChatTemplate(tmp_path).render(MESSAGES)


def test_a_template_can_refuse_messages(tmp_path: Path) -> None:
    found = template(tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        found.render(MESSAGES)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ],
    ids=["classes", "mutation", "files"],
)
def test_a_hostile_template_gets_nowhere(tmp_path: Path, source: str) -> None:
    found = template(tmp_path, source)
    with pytest.raises(ChatTemplateError):
        found.render(MESSAGES)


def test_a_template_that_is_not_jinja_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match="not valid"):
        template(tmp_path, "{% if %}")


@pytest.mark.parametrize("source", ["{{ 1 // 0 }}", "{{ range(10000000) | list }}"])
def test_whatever_a_template_raises_is_a_refusal(tmp_path: Path, source: str) -> None:
    with pytest.raises(ChatTemplateError):
        template(tmp_path, source).render(MESSAGES)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ChatTemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate(tmp_path)
