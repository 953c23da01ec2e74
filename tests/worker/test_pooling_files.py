"""What a folder's files say of a model: what it is for, and how its vectors are made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import POSITIONS, describe, make

from penstock_contract.api.engine import Task
from penstock_worker.model.config import UnsupportedModel
from penstock_worker.pooling.recipe import Recipe
from penstock_worker.pooling.shape import read_shape
from penstock_worker.pooling.task import task_of


def change(folder: Path, name: str, edit: Callable[[Any], Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", Task.EMBED),
        ("xlm-roberta", Task.EMBED),
        ("qwen3", Task.EMBED),
        ("qwen3-causal", Task.GENERATE),
        ("bert-cross", Task.SCORE),
    ],
)
def test_the_architecture_says_what_a_model_is_for(kind: str, task: Task, tmp_path: Path) -> None:
    make(kind, tmp_path)
    assert task_of(tmp_path, Task.AUTO) is task


def test_a_decoder_with_a_pooling_embeds_unless_told_to_generate(tmp_path: Path) -> None:
    make("qwen3-causal", tmp_path)
    describe(tmp_path, "last")
    assert task_of(tmp_path, Task.AUTO) is Task.EMBED
    assert task_of(tmp_path, Task.GENERATE) is Task.GENERATE


def test_a_decoder_without_a_pooling_embeds_if_told_to(tmp_path: Path) -> None:
    make("qwen3-causal", tmp_path)
    assert task_of(tmp_path, Task.EMBED) is Task.EMBED


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("bert", Task.GENERATE), ("bert", Task.SCORE), ("qwen3-causal", Task.SCORE)],
)
def test_what_a_model_cannot_do_is_refused(kind: str, wanted: Task, tmp_path: Path) -> None:
    make(kind, tmp_path)
    with pytest.raises(UnsupportedModel, match=f"not {wanted.lower()}"):
        task_of(tmp_path, wanted)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_the_pooling_is_read_from_the_folder(pooling: str, tmp_path: Path) -> None:
    make("bert", tmp_path)
    describe(tmp_path, pooling, normalised=False, longest=48)
    shape = read_shape(tmp_path, Task.AUTO)
    assert shape.recipe == Recipe(pooling, normalised=False, max_tokens=48)
    assert shape.max_tokens == 48


def test_the_newer_form_of_the_pooling_is_read(tmp_path: Path) -> None:
    make("bert", tmp_path)
    describe(tmp_path, "cls")
    change(tmp_path, "1_Pooling/config.json", lambda _: {"pooling_mode": "lasttoken"})
    assert read_shape(tmp_path, Task.AUTO).recipe.pooling == "last"


@pytest.mark.parametrize(
    ("kind", "pooling", "longest"),
    [("bert", "cls", POSITIONS), ("xlm-roberta", "cls", POSITIONS - 2), ("qwen3", "last", 130)],
)
def test_without_those_files_there_are_defaults(
    kind: str, pooling: str, longest: int, tmp_path: Path
) -> None:
    make(kind, tmp_path)
    shape = read_shape(tmp_path, Task.AUTO)
    assert shape.recipe == Recipe(pooling)
    assert shape.max_tokens == longest


def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    make("bert", tmp_path)
    describe(tmp_path, "max")
    with pytest.raises(UnsupportedModel, match="pooling_mode_max_tokens"):
        read_shape(tmp_path, Task.AUTO)


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    make("bert", tmp_path)
    describe(tmp_path, "mean")
    dense = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
    change(tmp_path, "modules.json", lambda found: [*found, dense])
    with pytest.raises(UnsupportedModel, match="Dense"):
        read_shape(tmp_path, Task.AUTO)


@pytest.mark.parametrize("path", ["../elsewhere", "..", "/etc"])
def test_a_path_outside_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    make("bert", tmp_path)
    describe(tmp_path, "mean")
    change(tmp_path, "modules.json", lambda found: [{**found[1], "path": path}])
    with pytest.raises(UnsupportedModel, match="outside the folder"):
        read_shape(tmp_path, Task.AUTO)


@pytest.mark.parametrize(
    ("told", "squashed"),
    [
        ({}, True),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, False),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, False),
    ],
)
def test_scores_are_squashed_unless_the_model_says_otherwise(
    told: dict[str, Any], squashed: bool, tmp_path: Path
) -> None:
    make("bert-cross", tmp_path)
    change(tmp_path, "config.json", lambda found: {**found, **told})
    assert getattr(read_shape(tmp_path, Task.AUTO).network, "squashed") is squashed  # noqa: B009


@pytest.mark.parametrize(
    ("change_to", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_act": "quick_gelu"}, "hidden_act"),
        ({"is_decoder": True}, "is_decoder"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    change_to: dict[str, Any], named: str, tmp_path: Path
) -> None:
    make("bert", tmp_path)
    change(tmp_path, "config.json", lambda found: {**found, **change_to})
    with pytest.raises(UnsupportedModel, match=named):
        read_shape(tmp_path, Task.AUTO)


def test_a_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    make("bert-cross", tmp_path)
    labels = {"id2label": {"0": "no", "1": "yes"}}
    change(tmp_path, "config.json", lambda found: {**found, **labels})
    with pytest.raises(UnsupportedModel, match="2 classes"):
        read_shape(tmp_path, Task.AUTO)
