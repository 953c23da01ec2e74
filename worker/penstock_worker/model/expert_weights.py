"""The tensors of a layer's MLP, or of its experts, whatever a family calls them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.model.experts_config import ExpertsConfig
from penstock_worker.model.loader import Checkpoint

_NAMES = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("w1", "w3", "w2")


@dataclass(frozen=True)
class MlpWeights:
    """down(act(gate(x)) · up(x)). gate and up are [inner, hidden], down [hidden, inner]."""

    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class SparseWeights:
    """A layer's experts. What chooses them is float32, however the others are stored."""

    config: ExpertsConfig
    router: Tensor
    """[experts, hidden]"""
    correction_bias: Tensor | None
    """[experts]"""
    shared: MlpWeights | None
    shared_gate: Tensor | None
    """[1, hidden]"""
    experts: Iterator[MlpWeights]
    """In their order, once; each is read when it is asked for, so no more than one is in memory."""


def read_mlp(
    checkpoint: Checkpoint,
    prefix: str,
    hidden: int,
    inner: int,
    names: tuple[str, str, str] = _NAMES,
) -> MlpWeights:
    """Return a plain MLP.

    Raises:
        UnsupportedModel: a tensor is missing, or its shape contradicts config.json.
    """
    gate, up, down = (f"{prefix}{name}.weight" for name in names)
    return MlpWeights(
        gate=checkpoint.take(gate, (inner, hidden)),
        up=checkpoint.take(up, (inner, hidden)),
        down=checkpoint.take(down, (hidden, inner)),
    )


def read_sparse(
    checkpoint: Checkpoint, layer: str, hidden: int, experts: ExpertsConfig
) -> SparseWeights:
    """Return the experts of the layer whose tensors' names begin with `layer`.

    Raises:
        UnsupportedModel: a tensor is missing, or its shape contradicts config.json.
    """
    mixtral = f"{layer}block_sparse_moe.gate.weight" in checkpoint
    prefix, names = (layer + "block_sparse_moe.", _MIXTRAL) if mixtral else (layer + "mlp.", _NAMES)

    def take(name: str, *shape: int) -> Tensor:
        return checkpoint.take(prefix + name, shape, torch.float32)

    return SparseWeights(
        config=experts,
        router=take("gate.weight", experts.count, hidden),
        correction_bias=(
            take("gate.e_score_correction_bias", experts.count) if experts.correction_bias else None
        ),
        shared=_shared(checkpoint, prefix, hidden, experts),
        shared_gate=take("shared_expert_gate.weight", 1, hidden) if experts.shared_gated else None,
        experts=(
            read_mlp(
                checkpoint, f"{prefix}experts.{index}.", hidden, experts.intermediate_size, names
            )
            for index in range(experts.count)
        ),
    )


def _shared(
    checkpoint: Checkpoint, prefix: str, hidden: int, experts: ExpertsConfig
) -> MlpWeights | None:
    if not experts.shared_intermediate_size:
        return None
    name = "shared_expert." if experts.shared_gated else "shared_experts."
    return read_mlp(checkpoint, prefix + name, hidden, experts.shared_intermediate_size)
