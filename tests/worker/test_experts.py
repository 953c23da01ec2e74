"""How experts are chosen and read: against transformers' own routers, and what is refused.

Covered: every way to choose that a supported family has, the two generations of DeepSeek among
them; experts that get everything, and nothing; config.json as authors publish it. Whole models are
in test_parity, and what only the native kernels distinguish is in test_native_experts.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch.nn import functional
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from penstock_worker.lora.deltas import NO_DELTAS
from penstock_worker.model.config import UnsupportedModel, read_config
from penstock_worker.model.expert_weights import MlpWeights, SparseWeights, read_sparse
from penstock_worker.model.experts import Experts, Router
from penstock_worker.model.experts_config import ExpertsConfig, UnsupportedExperts, read_experts
from penstock_worker.model.loader import Checkpoint

HIDDEN, INNER = 32, 24
QWEN = {"num_experts": 12, "num_experts_per_tok": 3, "moe_intermediate_size": INNER}
DEEPSEEK = {
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": INNER,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
}

ROUTERS: dict[str, Any] = {
    "mixtral": (
        "mixtral",
        MixtralTopKRouter,
        MixtralConfig(hidden_size=HIDDEN, num_local_experts=7),
    ),
    "qwen2": ("qwen", Qwen2MoeTopKRouter, Qwen2MoeConfig(hidden_size=HIDDEN, **QWEN)),
    "qwen3": (
        "qwen",
        Qwen3MoeTopKRouter,
        Qwen3MoeConfig(hidden_size=HIDDEN, **QWEN, norm_topk_prob=True),
    ),
    "deepseek-v2-greedy": (
        "deepseek_v2",
        DeepseekV2TopkRouter,
        DeepseekV2Config(hidden_size=HIDDEN, **DEEPSEEK, topk_method="greedy"),
    ),
    "deepseek-v2-grouped": (
        "deepseek_v2",
        DeepseekV2TopkRouter,
        DeepseekV2Config(hidden_size=HIDDEN, **DEEPSEEK, topk_method="group_limited_greedy"),
    ),
    "deepseek-v3": (
        "deepseek_v3",
        DeepseekV3TopkRouter,
        DeepseekV3Config(hidden_size=HIDDEN, **DEEPSEEK),
    ),
    "deepseek-v3-unnormalized": (
        "deepseek_v3",
        DeepseekV3TopkRouter,
        DeepseekV3Config(hidden_size=HIDDEN, **DEEPSEEK, norm_topk_prob=False),
    ),
}


def spread(chosen: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    """Return the weights by expert, zero for those that are not chosen: [tokens, experts]."""
    return torch.zeros(len(chosen), count).scatter_(1, chosen, weights.detach().float())


@pytest.mark.parametrize("name", ROUTERS)
def test_experts_are_chosen_and_weighed_as_transformers_does(name: str) -> None:
    family, kind, config = ROUTERS[name]
    torch.manual_seed(2)
    theirs = kind(config)
    torch.nn.init.normal_(theirs.weight)
    bias = getattr(theirs, "e_score_correction_bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias, std=0.3)
    found = read_experts(config.to_dict(), family)
    x = torch.randn(200, HIDDEN)
    ours = spread(*Router(found, theirs.weight.detach(), bias)(x), found.count)
    _, weights, chosen = theirs(x)
    expected = spread(chosen, weights, found.count)
    assert (ours - expected).abs().max() < 1e-6
    assert (expected > 0).sum(1).eq(found.per_token).all()


PLAIN = ExpertsConfig(
    count=5, per_token=2, intermediate_size=INNER, sparse=(True,), normalized=True
)


def experts(config: ExpertsConfig, router: torch.Tensor) -> tuple[Experts, list[MlpWeights]]:
    """Return random experts behind a router, and their weights."""
    torch.manual_seed(4)
    every = [
        MlpWeights(
            torch.randn(INNER, HIDDEN), torch.randn(INNER, HIDDEN), torch.randn(HIDDEN, INNER)
        )
        for _ in range(config.count)
    ]
    weights = SparseWeights(config, router, None, None, None, iter(every))
    return Experts(weights, functional.silu, "none"), every


def dense(weights: MlpWeights, x: torch.Tensor) -> torch.Tensor:
    return (functional.silu(x @ weights.gate.T) * (x @ weights.up.T)) @ weights.down.T


def test_one_expert_may_get_every_token_and_others_none() -> None:
    router = torch.zeros(5, HIDDEN)
    router[3], router[1] = 2.0, 1.0
    found, every = experts(PLAIN, router)
    x = torch.rand(40, HIDDEN)  # positive, so that row 3 wins, then row 1
    chosen, weights = Router(PLAIN, router, None)(x)
    assert chosen.tolist() == [[3, 1]] * 40
    expected = weights[:, :1] * dense(every[3], x) + weights[:, 1:] * dense(every[1], x)
    assert torch.allclose(found(x, NO_DELTAS, 0), expected, rtol=1e-4, atol=1e-4)


def test_among_equals_the_first_experts_are_chosen() -> None:
    router = Router(replace(PLAIN, per_token=3), torch.zeros(5, HIDDEN), None)
    chosen, weights = router(torch.randn(4, HIDDEN))
    assert chosen.tolist() == [[0, 1, 2]] * 4
    assert torch.allclose(weights, torch.full((4, 3), 1 / 3))


def test_experts_are_read_one_at_a_time(tmp_path: Path) -> None:
    tiny_models.make("mixtral", tmp_path)
    config = read_config(tmp_path)
    assert config.experts is not None
    taken: list[str] = []

    class Watched(Checkpoint):
        def take(self, name: str, *rest: Any) -> torch.Tensor:
            taken.append(name)
            return super().take(name, *rest)

    with Watched(tmp_path, torch.float32, torch.device("cpu")) as checkpoint:
        found = read_sparse(checkpoint, "model.layers.0.", config.hidden_size, config.experts)
        assert taken == ["model.layers.0.block_sparse_moe.gate.weight"]
        for index, _ in enumerate(found.experts):
            prefix = f"model.layers.0.block_sparse_moe.experts.{index}."
            assert taken[-3:] == [f"{prefix}{name}.weight" for name in ("w1", "w3", "w2")]
            assert len(taken) == 1 + 3 * (index + 1)


PUBLISHED: dict[str, tuple[str, dict[str, Any], ExpertsConfig]] = {
    "Mixtral 8x7B": (
        "mixtral",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 14336,
            "num_hidden_layers": 2,
        },
        ExpertsConfig(8, 2, 14336, (True, True), normalized=True),
    ),
    "Qwen1.5-MoE-A2.7B": (
        "qwen",
        {
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "decoder_sparse_step": 1,
            "norm_topk_prob": False,
            "num_hidden_layers": 2,
        },
        ExpertsConfig(
            60,
            4,
            1408,
            (True, True),
            normalized=False,
            shared_intermediate_size=5632,
            shared_gated=True,
        ),
    ),
    "Qwen3-30B-A3B, with dense layers": (
        "qwen",
        {
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
            "num_hidden_layers": 4,
        },
        ExpertsConfig(128, 8, 768, (False, True, False, False), normalized=True),
    ),
    "DeepSeek-V2-Lite": (
        "deepseek_v2",
        {
            "n_routed_experts": 64,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1408,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "norm_topk_prob": False,
            "scoring_func": "softmax",
            "routed_scaling_factor": 1.0,
            "num_hidden_layers": 3,
        },
        ExpertsConfig(
            64, 6, 1408, (False, True, True), normalized=False, shared_intermediate_size=2816
        ),
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048,
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
            "moe_layer_freq": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "n_group": 8,
            "topk_group": 4,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "num_hidden_layers": 4,
        },
        ExpertsConfig(
            256,
            8,
            2048,
            (False, False, False, True),
            normalized=True,
            scoring="sigmoid",
            scaling=2.5,
            correction_bias=True,
            groups=8,
            chosen_groups=4,
            group_best=2,
            shared_intermediate_size=2048,
        ),
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_configurations_are_understood(model: str) -> None:
    family, raw, expected = PUBLISHED[model]
    assert read_experts(raw, family) == expected


@pytest.mark.parametrize(
    ("model", "change", "complaint"),
    [
        ("Mixtral 8x7B", {"num_local_experts": None}, "num_local_experts must be a positive"),
        ("Mixtral 8x7B", {"num_experts_per_tok": 9}, "num_experts_per_tok 9: .*too few"),
        ("DeepSeek-V2-Lite", {"topk_method": "random"}, "topk_method 'random'; known: greedy"),
        ("DeepSeek-V2-Lite", {"norm_topk_prob": True}, "norm_topk_prob True is not supported"),
        ("DeepSeek-V3", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported"),
        ("DeepSeek-V3", {"n_group": 7}, "256 experts cannot form 7 groups"),
        ("DeepSeek-V3", {"topk_group": 9}, "of which 9 are chosen"),
        ("DeepSeek-V3", {"n_group": 256, "topk_group": 8}, "too few"),
    ],
)
def test_experts_that_would_be_chosen_wrongly_are_refused_by_name(
    model: str, change: dict[str, Any], complaint: str
) -> None:
    family, raw, _ = PUBLISHED[model]
    with pytest.raises(UnsupportedExperts, match=complaint):
        read_experts(raw | change, family)


def test_a_checkpoint_with_too_few_experts_is_refused(tmp_path: Path) -> None:
    tiny_models.make("mixtral", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"num_experts_per_tok": 6}))
    with pytest.raises(UnsupportedModel, match=r"config\.json: num_experts_per_tok 6"):
        read_config(tmp_path)
