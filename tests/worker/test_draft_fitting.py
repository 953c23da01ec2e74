"""Which checkpoints may guess for which, and how many tokens they are to guess."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_heads import make_head

from penstock_contract.step_cost import StepCost
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig, TierConfig, TransferConfig
from penstock_worker.model.config import UnsupportedModel, read_config
from penstock_worker.speculative.costs import REFIT_EVERY, LearnedCost
from penstock_worker.speculative.fitting import draft_shape
from penstock_worker.speculative.head_config import read_head
from penstock_worker.speculative.lengths import Acceptance, draft_lengths
from penstock_worker.speculative.vocabulary import UnsupportedDraft, check_vocabulary

BOUND_BY_WEIGHTS = (
    StepCost(step=0.010, prefill_token=3e-4, sequence=3e-4, kv_token=0.0),
    StepCost(step=0.001, prefill_token=3e-5, sequence=3e-5, kv_token=0.0),
)
"""Reading the target's weights takes as long as computing thirty tokens."""


def tokenizer(folder: Path, vocabulary: dict[str, int], added: dict[str, int]) -> Path:
    folder.mkdir()
    content = {
        "model": {"type": "BPE", "vocab": vocabulary},
        "added_tokens": [{"content": token, "id": number} for token, number in added.items()],
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_a_draft_has_the_tokens_of_its_target(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path / "ours", {"a": 0, "b": 1}, {"<end>": 2})
    same = tokenizer(tmp_path / "same", {"b": 1, "a": 0, "<end>": 2}, {})
    check_vocabulary(ours, same)
    other = tokenizer(tmp_path / "other", {"a": 0, "c": 1}, {"<end>": 2})
    with pytest.raises(UnsupportedDraft, match=r"2 entries, the first is '[bc]' \(1\)"):
        check_vocabulary(ours, other)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedDraft, match="damaged"):
        check_vocabulary(ours, other)
    with pytest.raises(UnsupportedDraft, match="cannot be read"):
        check_vocabulary(ours, tmp_path)


@pytest.mark.parametrize("method", ["none", "ngram"])
def test_a_draft_that_nobody_asks_is_refused(method: str, tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tmp_path)
    shape = read_config(tmp_path)
    config = EngineConfig(str(tmp_path), speculative=method, speculative_model=str(tmp_path))
    with pytest.raises(UnsupportedDraft, match="add --speculative draft or eagle3"):
        draft_shape(config, shape, 64)


def test_what_cannot_be_combined_is_refused_by_its_flag(tmp_path: Path) -> None:
    for name, folder in (("mistral-window", "sliding"), ("llama-gqa", "plain")):
        tiny_models.make(name, tokenizer(tmp_path / folder, {"a": 0}, {}))
    plain, sliding = read_config(tmp_path / "plain"), read_config(tmp_path / "sliding")
    config = EngineConfig(
        model=str(tmp_path / "plain"),
        speculative="draft",
        speculative_model=str(tmp_path / "plain"),
    )
    assert draft_shape(config, plain, plain.max_position) == plain
    with pytest.raises(UnsupportedDraft, match=r"--speculative-model .*lower --max-model-len"):
        draft_shape(config, plain, plain.max_position + 1)
    assert sliding.window
    with pytest.raises(UnsupportedDraft, match="every layer of the model slides"):
        draft_shape(config, sliding, 64)


def head_settings(model: Path, head: Path, **options: Any) -> EngineConfig:
    return EngineConfig(str(model), speculative="eagle3", speculative_model=str(head), **options)


TIER, TRANSFER = TierConfig("kv", 1 << 30), TransferConfig("0.0.0.0", 0, "a", 60.0, "w")


@pytest.mark.parametrize(
    ("family", "options", "says"),
    [
        ("mistral-window", {}, "every layer of the model slides"),
        ("gemma", {}, "heads for Gemma are not supported"),
        ("llama-gqa", {"tier": TIER}, "leave out --kv-tier-disk"),
        ("llama-gqa", {"transfer": TRANSFER}, "leave out --kv-transfer"),
        ("llama-gqa", {"tensor_parallel_size": 2}, "--speculative eagle3: use ngram"),
    ],
)
def test_what_has_no_head_is_refused_by_its_flag(
    family: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model, head = tmp_path / "model", tmp_path / "head"
    tiny_models.make(family, model)
    make_head(head)
    with pytest.raises(UnsupportedDraft, match=says):
        draft_shape(head_settings(model, head, **options), read_config(model), 64)


def test_a_folder_that_is_no_checkpoint_is_called_that(tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tokenizer(tmp_path / "model", {"a": 0}, {}))
    target = read_config(tmp_path / "model")
    make_head(tmp_path / "head")
    (tmp_path / "head" / "model.safetensors").unlink()
    for method in ("draft", "eagle3"):
        config = EngineConfig(
            str(tmp_path / "model"), speculative=method, speculative_model=str(tmp_path / "nowhere")
        )
        with pytest.raises(UnsupportedDraft, match=r"config\.json: No such file"):
            draft_shape(config, target, 64)
    with pytest.raises(UnsupportedDraft, match=r"has no model\.safetensors"):
        draft_shape(head_settings(tmp_path / "model", tmp_path / "head"), target, 64)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["LlamaForCausalLM"], "draft_vocab_size": 100}, ""),
        ({"eagle_aux_hidden_state_layer_ids": None}, ""),
        ({"architectures": ["EagleModel"]}, "EagleModel, not an EAGLE-3 head"),
        ({"hidden_size": 32}, "hidden_size is 32, the model's is 64"),
        ({"vocab_size": 400}, "vocab_size is 400, the model's is 320"),
        ({"num_hidden_layers": 2}, "must be 1 in an EAGLE-3 head"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "three of the model's 3 layers"),
        ({"eagle_aux_hidden_state_layer_ids": [1, 2, 9]}, "three of the model's 3 layers"),
        ({"eagle_aux_hidden_state_layer_ids": "012"}, "012 must be three of the model's"),
        ({"eagle_config": [1]}, "eagle_config is not an object"),
        ({"eagle_config": {"use_aux_hidden_state": False}}, "use_aux_hidden_state other than True"),
        ({"norm_before_fc": True}, "norm_before_fc other than False"),
    ],
)
def test_a_head_is_one_of_its_model(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tmp_path / "model")
    make_head(tmp_path / "head", **changes)
    config = head_settings(tmp_path / "model", tmp_path / "head")
    target = read_config(tmp_path / "model")
    if not says:
        assert draft_shape(config, target, 64) is not None
        return
    with pytest.raises(UnsupportedDraft, match=f"--speculative-model .*{says}"):
        draft_shape(config, target, 64)


def test_published_heads_count_layers_in_two_ways(tmp_path: Path) -> None:
    tiny_models.make("llama-gqa", tmp_path / "model")
    target = read_config(tmp_path / "model")
    make_head(tmp_path / "by-inputs", eagle_aux_hidden_state_layer_ids=[0, 1, 3])
    by_outputs = {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    make_head(
        tmp_path / "by-outputs", eagle_aux_hidden_state_layer_ids=None, eagle_config=by_outputs
    )
    make_head(tmp_path / "unordered", eagle_aux_hidden_state_layer_ids=[3, 0, 1])
    for name in ("by-inputs", "unordered"):
        assert read_head(tmp_path / name, target).taps == (0, 1, 3)
    assert read_head(tmp_path / "by-outputs", target).taps == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("fc.weight", (64, 128), r"fc\.weight has shape \(64, 128\)"),
        ("d2t", None, "has no tensor d2t"),
        ("d2t", (100,), "d2t leads beyond the model's 320 tokens"),
        ("midlayer.extra.weight", (3,), "tensors of another model"),
    ],
)
def test_a_damaged_head_is_refused(
    name: str, shape: tuple[int, ...] | None, says: str, tmp_path: Path
) -> None:
    tiny_models.make("llama-gqa", tmp_path / "model")
    tensors = make_head(tmp_path / "head")
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = torch.full(shape, 300)
    save_file(tensors, str(tmp_path / "head" / "model.safetensors"))
    with pytest.raises(UnsupportedModel, match=says):
        build_engine(head_settings(tmp_path / "model", tmp_path / "head", kv_cache_bytes=1 << 20))


def test_an_engine_opens_its_draft_and_both_share_the_room_for_kv() -> None:
    example = str(Path(__file__).parents[2] / "examples" / "model")
    alone = EngineConfig(model=example, kv_cache_bytes=64 << 20)
    guessing = EngineConfig(
        model=example,
        kv_cache_bytes=64 << 20,
        speculative="draft",
        speculative_model=example,
        self_benchmark=True,
    )
    _, without = build_engine(alone)
    _, ready = build_engine(guessing)
    assert ready.num_blocks == without.num_blocks // 2
    assert ready.kv_bytes_per_token == without.kv_bytes_per_token


def test_one_sequence_is_guessed_far_and_a_large_batch_not_at_all() -> None:
    lengths = [
        max(draft_lengths([0.8] * count, 8, *BOUND_BY_WEIGHTS, 0)) for count in (1, 8, 64, 512)
    ]
    assert lengths[0] >= 4
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 0


def test_who_is_guessed_wrongly_is_guessed_for_less() -> None:
    sure, unsure = draft_lengths([0.95, 0.1], 8, *BOUND_BY_WEIGHTS, 0)
    assert sure > 4
    assert unsure <= 1


def test_what_steps_take_is_learned_where_it_differs_from_what_was_measured() -> None:
    costs = LearnedCost(BOUND_BY_WEIGHTS[1])
    for step in range(20 * REFIT_EVERY):
        costs.learn(0.02 + 0.001 * (step % 4), 0, 1 + step % 4, 100)
    lengths = draft_lengths([0.8], 8, BOUND_BY_WEIGHTS[0], costs.cost, 0)
    assert costs.cost.seconds(0, 1, 100) == pytest.approx(0.02, rel=0.1)
    assert lengths == [0]


@given(
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=9),
    most=st.integers(1, 8),
    step=st.floats(0, 1),
    token=st.floats(0, 0.1),
    draft=st.floats(0, 1),
    context=st.integers(0, 10_000),
)
def test_whatever_is_guessed_brings_tokens_no_slower(
    chances: list[float], most: int, step: float, token: float, draft: float, context: int
) -> None:
    target, small = StepCost(step, token, 2 * token, 1e-6), StepCost(draft, 0.0, token / 8, 0.0)
    lengths = draft_lengths(chances, most, target, small, context)
    assert all(0 <= length <= most for length in lengths)
    seconds = plain = target.seconds(0, len(chances), context)
    tokens = float(len(chances))
    for place in range(1, max(lengths) + 1):
        taking = [
            chance for chance, length in zip(chances, lengths, strict=True) if length >= place
        ]
        tokens += sum(one**place for one in taking)
        seconds += small.step + len(taking) * (token + small.sequence)
    assert tokens * plain >= len(chances) * seconds * (1 - 1e-9)


def test_a_sequence_is_known_by_what_was_right_lately() -> None:
    found = Acceptance()
    before = found.chance
    for _ in range(50):
        found.learn(0, 1)
    assert found.chance < 0.15
    for _ in range(200):
        found.learn(0, 0)
    assert found.chance == pytest.approx(before, abs=0.01)
    for _ in range(50):
        found.learn(4, 4)
    assert found.chance > 0.95
