"""The plain MLP of a layer, or of one expert, in PyTorch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.lora.deltas import NO_DELTAS, StepDeltas
from penstock_worker.model.expert_weights import MlpWeights
from penstock_worker.model.layers import Linear

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


class Mlp:
    """y = down(act(gate(x)) · up(x)), with one fused projection for gate and up (Shazeer, "GLU
    variants improve transformer", 2020).
    """

    def __init__(self, weights: MlpWeights, activation: Activation, quantization: str) -> None:
        self._gate_up = Linear(torch.cat([weights.gate, weights.up]), None, quantization)
        self._down = Linear(weights.down, None, quantization)
        self._activation = activation

    def __call__(self, x: Tensor, deltas: StepDeltas = NO_DELTAS, layer: int = 0) -> Tensor:
        """Return y with what adapters add to this layer. x, y [tokens, hidden]."""
        gate, up = deltas.add(layer, "gate_up", x, self._gate_up(x)).chunk(2, -1)
        inner = self._activation(gate) * up
        return deltas.add(layer, "down", inner, self._down(inner))
