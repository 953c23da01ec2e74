"""Which part of a model each rank has (Shoeybi et al., "Megatron-LM", 2019, §3). Pure; no torch.

Heads, the width of MLPs and of every expert, and the vocabulary are divided; norms and what chooses
experts are everywhere. Where there are more ranks than KV heads, several keep the same one.
"""

from dataclasses import dataclass, replace

from penstock_contract.group import NODES
from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig

FLAG = "--tensor-parallel-size"


def refuse(config: EngineConfig, shape: ModelConfig) -> None:
    """Refuse what is not computed by several ranks.

    Raises:
        ValueError: names the setting, and what to do instead.
    """
    ranks = config.tensor_parallel_size
    for refused, setting, fix in (
        (config.quantization != "none", f"--quantization {config.quantization}", "use none"),
        (config.kernels == "native", "--kernels native", "use auto or torch"),
        (config.speculative not in ("none", "ngram"), "--speculative", "use none or ngram"),
        (bool(config.adapters), "--adapter", "leave adapters out"),
        (bool(config.max_adapters), "--max-adapters", "leave it out"),
        (config.transfer is not None, "--kv-transfer", "leave it out"),
        (config.tier is not None, "--kv-tier-disk", "leave it out"),
        (bool(shape.latent), "latent attention (DeepSeek)", "use vLLM"),
    ):
        if refused:
            raise ValueError(f"{FLAG} {ranks}: {setting} is for a single rank; {fix}, or use 1")
    if ranks % config.group.nodes:
        raise ValueError(f"{FLAG} {ranks}: {NODES} {config.group.nodes} does not divide it")
    experts = shape.experts
    for name, number in (
        ("num_attention_heads", shape.num_heads),
        ("intermediate_size", shape.intermediate_size),
        ("moe_intermediate_size", experts.intermediate_size if experts else 0),
        ("shared_expert_intermediate_size", experts.shared_intermediate_size if experts else 0),
    ):
        if number % ranks:
            raise ValueError(
                f"{FLAG} {ranks} does not divide the model's {name}, which is {number}: use a "
                "divisor of it"
            )
    if (ranks - 1) * -(-shape.vocab_size // ranks) >= shape.vocab_size:
        raise ValueError(f"{FLAG} {ranks} is too many for a vocabulary of {shape.vocab_size}")
    kv_heads = shape.num_kv_heads
    if kv_heads % ranks and ranks % kv_heads:
        raise ValueError(
            f"{FLAG} {ranks} is neither a divisor nor a multiple of the model's "
            f"num_key_value_heads, which is {kv_heads}"
        )


def share_of(shape: ModelConfig, ranks: int) -> ModelConfig:
    """Return the shape of a rank's part, the same for all; `refuse` has let it pass."""
    experts = shape.experts
    return replace(
        shape,
        vocab_size=-(-shape.vocab_size // ranks),
        num_heads=shape.num_heads // ranks,
        num_kv_heads=max(1, shape.num_kv_heads // ranks),
        intermediate_size=shape.intermediate_size // ranks,
        experts=experts
        and replace(
            experts,
            intermediate_size=experts.intermediate_size // ranks,
            shared_intermediate_size=experts.shared_intermediate_size // ranks,
        ),
    )


@dataclass(frozen=True)
class Cut:
    """The rows or columns of a whole tensor that are a rank's part of it."""

    dim: int
    start: int
    stop: int
    whole: int
    """Rows or columns that the tensor has."""


class Cuts:
    """Where the tensors of a checkpoint are cut for one rank.

    Args:
        shape: of the whole model.
        rank: whose part.
        ranks: that share the model.
    """

    def __init__(self, shape: ModelConfig, rank: int, ranks: int) -> None:
        self._shape = shape
        self._rank, self._ranks = rank, ranks

    def find(self, name: str, part: tuple[int, ...]) -> Cut | None:
        """Return how a tensor is cut whose part is `part`; None where each rank has all of it."""
        match name.split(".")[-2:]:
            case ["embed_tokens" | "lm_head", "weight"]:
                whole = self._shape.vocab_size
                start = min(whole, self._rank * part[0])
                return Cut(0, start, min(whole, start + part[0]), whole)
            case ["k_proj" | "v_proj", _]:
                whole = self._shape.num_kv_heads * self._shape.head_dim
                # Ranks beside each other keep the same head where there are too few.
                start = self._rank * self._shape.num_kv_heads // self._ranks * self._shape.head_dim
                return Cut(0, start, start + part[0], whole)
            case ["q_proj" | "gate_proj" | "up_proj" | "w1" | "w3", _]:
                return self._even(0, part)
            case ["o_proj" | "down_proj" | "w2", "weight"]:
                return self._even(1, part)
        return None

    def _even(self, dim: int, part: tuple[int, ...]) -> Cut:
        start = self._rank * part[dim]
        return Cut(dim, start, start + part[dim], self._ranks * part[dim])
