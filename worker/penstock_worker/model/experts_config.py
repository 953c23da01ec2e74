"""What config.json says of a mixture of experts, whose every family names it differently. No torch.

A sparse layer (Shazeer et al., "Outrageously large neural networks", 2017) has many MLPs, experts,
of which a gate chooses a few for each token. Shared experts are those that every token passes.
"""

from dataclasses import dataclass
from typing import Any


class UnsupportedExperts(ValueError):
    """Experts are chosen in a way that is not computed here."""


@dataclass(frozen=True)
class ExpertsConfig:
    """Which layers have experts, and how a token's are chosen and weighed."""

    count: int
    per_token: int
    intermediate_size: int
    """Of one expert."""
    sparse: tuple[bool, ...]
    """Which layers have experts; the others have a plain MLP."""
    normalized: bool
    """The weights of a token's experts are divided by their sum."""
    scoring: str = "softmax"
    """What makes scores of the gate's products: softmax or sigmoid."""
    scaling: float = 1.0
    """What weights are multiplied with in the end."""
    correction_bias: bool = False
    """A bias is added to scores when experts are chosen, not when they are weighed."""
    groups: int = 1
    """Experts form so many groups of equal size, one after the other."""
    chosen_groups: int = 1
    """A token's experts come from so many groups: those that score highest."""
    group_best: int = 1
    """A group's score is the sum of so many of its highest."""
    shared_intermediate_size: int = 0
    """Of the shared experts, which are computed as one; 0 where there are none."""
    shared_gated: bool = False
    """What the shared experts give is multiplied with a sigmoid of its own gate."""


def read_experts(raw: dict[str, Any], family: str) -> ExpertsConfig:
    """Return the experts of a family, from the contents of config.json.

    Args:
        raw: the contents.
        family: mixtral, qwen, deepseek_v2 or deepseek_v3.

    Raises:
        UnsupportedExperts: a number is missing or makes no sense, or is not computed here.
    """
    readers = {
        "mixtral": _mixtral,
        "qwen": _qwen,
        "deepseek_v2": _deepseek_v2,
        "deepseek_v3": _deepseek_v3,
    }
    return _checked(readers[family](raw))


def _mixtral(raw: dict[str, Any]) -> ExpertsConfig:
    return ExpertsConfig(
        count=_positive(raw, "num_local_experts"),
        per_token=_positive(raw, "num_experts_per_tok"),
        intermediate_size=_positive(raw, "intermediate_size"),
        sparse=(True,) * _positive(raw, "num_hidden_layers"),
        normalized=True,
    )


def _qwen(raw: dict[str, Any]) -> ExpertsConfig:
    shared = int(raw.get("shared_expert_intermediate_size") or 0)
    step, dense = raw.get("decoder_sparse_step") or 1, set(raw.get("mlp_only_layers") or ())
    return ExpertsConfig(
        count=_positive(raw, "num_experts" if "num_experts" in raw else "num_local_experts"),
        per_token=_positive(raw, "num_experts_per_tok"),
        intermediate_size=_positive(raw, "moe_intermediate_size"),
        sparse=tuple(
            layer not in dense and (layer + 1) % step == 0
            for layer in range(_positive(raw, "num_hidden_layers"))
        ),
        normalized=bool(raw.get("norm_topk_prob", False)),
        shared_intermediate_size=shared,
        shared_gated=shared > 0,
    )


def _deepseek_v2(raw: dict[str, Any]) -> ExpertsConfig:
    method = raw.get("topk_method") or "greedy"
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedExperts(f"topk_method {method!r}; known: greedy, group_limited_greedy")
    for field, only in (("scoring_func", "softmax"), ("norm_topk_prob", False)):
        if raw.get(field, only) != only:
            raise UnsupportedExperts(f"{field} {raw[field]!r} is not supported: only {only!r} is")
    grouped = method == "group_limited_greedy"
    return ExpertsConfig(
        **_deepseek(raw),
        normalized=False,
        groups=_positive(raw, "n_group") if grouped else 1,
        chosen_groups=_positive(raw, "topk_group") if grouped else 1,
    )


def _deepseek_v3(raw: dict[str, Any]) -> ExpertsConfig:
    for field, only in (("topk_method", "noaux_tc"), ("scoring_func", "sigmoid")):
        if raw.get(field, only) != only:
            raise UnsupportedExperts(f"{field} {raw[field]!r} is not supported: only {only!r} is")
    return ExpertsConfig(
        **_deepseek(raw),
        normalized=bool(raw.get("norm_topk_prob", True)),
        scoring="sigmoid",
        correction_bias=True,
        groups=_positive(raw, "n_group"),
        chosen_groups=_positive(raw, "topk_group"),
        group_best=2,
    )


def _deepseek(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what both generations say in the same words."""
    inner = _positive(raw, "moe_intermediate_size")
    first, step = raw.get("first_k_dense_replace") or 0, raw.get("moe_layer_freq") or 1
    return {
        "count": _positive(raw, "n_routed_experts"),
        "per_token": _positive(raw, "num_experts_per_tok"),
        "intermediate_size": inner,
        "sparse": tuple(
            layer >= first and layer % step == 0
            for layer in range(_positive(raw, "num_hidden_layers"))
        ),
        "scaling": float(raw.get("routed_scaling_factor", 1.0)),
        "shared_intermediate_size": inner * int(raw.get("n_shared_experts") or 0),
    }


def _positive(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedExperts(f"{field} must be a positive integer, not {value!r}")
    return value


def _checked(experts: ExpertsConfig) -> ExpertsConfig:
    """Refuse numbers that contradict each other."""
    if experts.count % experts.groups or experts.chosen_groups > experts.groups:
        raise UnsupportedExperts(
            f"{experts.count} experts cannot form {experts.groups} groups of equal size, of which "
            f"{experts.chosen_groups} are chosen"
        )
    size = experts.count // experts.groups
    if experts.per_token > experts.chosen_groups * size or experts.group_best > size:
        raise UnsupportedExperts(
            f"num_experts_per_tok {experts.per_token}: {experts.chosen_groups} groups of {size} "
            "experts are too few"
        )
    return experts
