"""Vectors and scores are those of transformers, alone and packed among inputs of other lengths."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels import native_library
from tiny_encoders import SHAPE, describe, make
from torch import Tensor
from torch.nn import functional

from penstock_contract.api.engine import Task
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.native import build
from penstock_worker.native.levels import Level, this_machine
from penstock_worker.pooling.config import EncoderConfig
from penstock_worker.pooling.inputs import Input
from penstock_worker.pooling.model import PoolingModel, load_decoder, load_encoder
from penstock_worker.pooling.shape import PoolingShape, read_shape

LENGTHS = (1, 2, 7, 7, 7, 9, 10, 33, 40, 41, 90, 128)


@pytest.fixture(params=["torch", "native, a thread", "native, three threads"])
def how(request: pytest.FixtureRequest) -> ExecutionConfig:
    """Both ways to compute encoders; decoders have the first only."""
    if request.param == "torch":
        return ExecutionConfig()
    if native_library() is None:
        pytest.skip("no C++ compiler")
    return ExecutionConfig(
        kernels=native_library(), threads=1 if request.param == "native, a thread" else 3
    )


def load(folder: Path, how: ExecutionConfig) -> PoolingModel:
    shape = read_shape(folder, Task.AUTO)
    if isinstance(shape.network, EncoderConfig):
        return load_encoder(folder, shape.network, shape.recipe, how)
    if how.kernels is not None:
        pytest.skip("decoders whose states are pooled are computed by PyTorch")
    return load_decoder(folder, shape.network, shape.recipe, shape.max_tokens, how)


def inputs(lengths: tuple[int, ...] = LENGTHS) -> list[Input]:
    generator = random.Random(3)
    found = [[generator.randrange(4, SHAPE["vocab_size"]) for _ in range(n)] for n in lengths]
    generator.shuffle(found)
    return [Input(tokens) for tokens in found]


def states(model: Any, one: Input) -> Tensor:
    """Return the reference's states of one input, which is alone: [tokens, hidden]."""
    tokens = torch.tensor([one.tokens])
    types = (torch.arange(len(one.tokens)) >= (one.second or len(one.tokens))).long()[None]
    known = {"token_type_ids": types} if "bert" in model.config.model_type else {}
    if model.config.model_type == "xlm-roberta":
        known = {}
    with torch.no_grad():
        found: Tensor = model(tokens, **known).last_hidden_state[0]
    return found


POOLED = {
    "cls": lambda found: found[0],
    "mean": lambda found: found.mean(0),
    "last": lambda found: found[-1],
}


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("bert", "cls"),
        ("bert", "mean"),
        ("bert-tanh", "last"),
        ("bert-relu", "cls"),
        ("bert-silu", "cls"),
        ("xlm-roberta", "mean"),
        ("qwen3", "last"),
        ("qwen3", "mean"),
        ("qwen3-window", "last"),
        ("qwen3-causal", "last"),
    ],
)
def test_vectors_are_the_references(
    kind: str, pooling: str, normalised: bool, tmp_path: Path, how: ExecutionConfig
) -> None:
    reference = make(kind, tmp_path)
    describe(tmp_path, pooling, normalised=normalised)
    found = load(tmp_path, how).compute(inputs())
    body = reference.model if kind == "qwen3-causal" else reference
    for one, vector in zip(inputs(), found, strict=True):
        wanted = POOLED[pooling](states(body, one))
        wanted = functional.normalize(wanted, dim=-1) if normalised else wanted
        torch.testing.assert_close(vector, wanted, atol=1e-4, rtol=1e-4)
        assert functional.cosine_similarity(vector, wanted, dim=0) > 0.9999


@pytest.mark.parametrize("kind", ["bert-cross", "xlm-roberta-cross"])
def test_scores_of_pairs_are_the_references(
    kind: str, tmp_path: Path, how: ExecutionConfig
) -> None:
    reference = make(kind, tmp_path)
    pairs = [Input(one.tokens, len(one.tokens) // 3) for one in inputs()]
    found = load(tmp_path, how).compute(pairs)
    for one, score in zip(pairs, found, strict=True):
        types = (torch.arange(len(one.tokens)) >= (one.second or len(one.tokens))).long()[None]
        known = {"token_type_ids": types} if kind == "bert-cross" else {}
        with torch.no_grad():
            wanted = reference(torch.tensor([one.tokens]), **known).logits[0].sigmoid()
        torch.testing.assert_close(score, wanted, atol=1e-4, rtol=1e-4)


def test_vectors_do_not_depend_on_what_is_beside_them(tmp_path: Path, how: ExecutionConfig) -> None:
    make("bert", tmp_path)
    model = load(tmp_path, how)
    together = model.compute(inputs())
    near = 1e-5 if how.kernels is None else 0.0
    for one, vector in zip(inputs(), together, strict=True):
        torch.testing.assert_close(model.compute([one])[0], vector, atol=near, rtol=10 * near)


def test_steps_of_several_passes_give_the_same(tmp_path: Path, how: ExecutionConfig) -> None:
    make("bert", tmp_path)
    model = load(tmp_path, how)
    few = model.compute(inputs())
    many = model.compute(inputs(LENGTHS) + inputs((128,) * 20) + inputs(LENGTHS))
    for found in (many[: len(few)], many[-len(few) :]):
        torch.testing.assert_close(found, few, atol=1e-5, rtol=1e-4)


def test_bfloat16_stays_near_float32(tmp_path: Path, how: ExecutionConfig) -> None:
    make("bert", tmp_path)
    exact = load(tmp_path, how).compute(inputs())
    rough = load(tmp_path, replace(how, dtype=torch.bfloat16)).compute(inputs())
    assert rough.dtype is torch.float32
    assert functional.cosine_similarity(exact, rough).min() > 0.99


@pytest.mark.parametrize("level", this_machine(), ids=lambda level: level.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set_agrees(level: Level, dtype: torch.dtype, tmp_path: Path) -> None:
    if native_library() is None:
        pytest.skip("no C++ compiler")
    make("bert", tmp_path)
    how = ExecutionConfig(dtype, kernels=build.build(level, build.cache_folder()), threads=2)
    found = load(tmp_path, how).compute(inputs())
    exact = load(tmp_path, ExecutionConfig()).compute(inputs())
    near = 1e-4 if dtype is torch.float32 else 0.1
    torch.testing.assert_close(found, exact, atol=near, rtol=near)


def test_a_decoder_without_a_head_needs_none(tmp_path: Path) -> None:
    make("qwen3", tmp_path)
    shape: PoolingShape = read_shape(tmp_path, Task.AUTO)
    assert isinstance(shape.network, ModelConfig)
    assert not shape.network.tie_word_embeddings
    assert load(tmp_path, ExecutionConfig()).compute([Input([5])]).shape == (
        1,
        SHAPE["hidden_size"],
    )
