"""A real worker with LoRA adapters on the example model: each is a model of its own name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
import tiny_adapters
import torch
from openai import NotFoundError, OpenAI
from transformers import AutoModelForCausalLM
from worker_process import ALIAS, EXAMPLE_MODEL, NAME, WorkerProcess, eventually, worker

NAMES = ("loud", "quiet")
ON = {"ignore_eos": True}


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Adapters by name: the folder, and the model with them merged in."""
    base = AutoModelForCausalLM.from_pretrained(EXAMPLE_MODEL, dtype=torch.float32).eval()
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: (folder / name, tiny_adapters.make(folder / name, base, seed=seed, size=0.05))
        for seed, name in enumerate(NAMES)
    }


@pytest.fixture(scope="module")
def adapted(
    merged: dict[str, tuple[Path, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    flags = [f"--adapter={name}={folder}" for name, (folder, _) in merged.items()]
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(log, *flags, "--dtype", "float32") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="module")
def asked(adapted: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{adapted.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_adapters_are_listed_with_their_parent(asked: OpenAI) -> None:
    found = {model.id: getattr(model, "parent") for model in asked.models.list()}  # noqa: B009
    assert found == {NAME: None, ALIAS: None, "loud": NAME, "quiet": NAME}
    assert asked.models.retrieve("loud").id == "loud"


def test_the_models_name_chooses_the_adapter(
    asked: OpenAI, merged: dict[str, tuple[Path, Any]]
) -> None:
    texts = set()
    for name in NAMES:
        answer: Any = asked.completions.create(
            model=name,
            prompt="A list is",
            temperature=0,
            max_tokens=16,
            extra_body={**ON, "return_token_ids": True},
        )
        assert answer.model == name
        choice = answer.choices[0]
        prompt = torch.tensor([choice.prompt_token_ids])
        model = merged[name][1]
        model.generation_config.eos_token_id = None
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False
        )
        assert choice.token_ids == out[0, prompt.shape[1] :].tolist()
        texts.add(choice.text)
    base = asked.completions.create(model=NAME, prompt="A list is", temperature=0, max_tokens=16)
    assert len({*texts, base.choices[0].text}) == 3


def test_a_chat_with_an_adapter_streams_under_its_name(asked: OpenAI) -> None:
    chunks = asked.chat.completions.create(
        model="loud",
        messages=[{"role": "user", "content": "What is a list?"}],
        max_completion_tokens=8,
        stream=True,
    )
    assert {chunk.model for chunk in chunks} == {"loud"}


def test_an_adapter_that_is_not_there_is_no_model(asked: OpenAI) -> None:
    with pytest.raises(NotFoundError, match=r"'lost' is not served here.*loud, quiet"):
        asked.completions.create(model="lost", prompt="x")


def test_text_is_tokenised_for_an_adapter_too(adapted: WorkerProcess) -> None:
    answer = plain_http.post(f"{adapted.url}/tokenize", json={"model": "quiet", "prompt": "A list"})
    assert answer.json()["count"] > 0


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("loud", "is no adapter: send NAME=FOLDER"),
        (f"{ALIAS}=/nowhere", "the name is taken"),
        ("loud=/nowhere", "/nowhere/adapter_config.json: No such file or directory"),
    ],
)
def test_a_wrong_adapter_is_told_at_once(flag: str, complaint: str, tmp_path: Path) -> None:
    with worker(tmp_path / "log", "--adapter", flag) as found:
        assert found.wait() == 2
    assert complaint in (tmp_path / "log").read_text()


def test_an_adapter_of_another_model_keeps_the_worker_from_starting(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 1, "hidden_size": 128}
    other = AutoModelForCausalLM.from_config(
        AutoModelForCausalLM.from_pretrained(EXAMPLE_MODEL).config.__class__(**config)
    )
    tiny_adapters.make(tmp_path / "a", other, modules=("q_proj",))
    with worker(tmp_path / "log", f"--adapter=a={tmp_path / 'a'}") as found:
        assert found.wait() == 1
    assert "use the adapter with the model that it was trained on" in (tmp_path / "log").read_text()
