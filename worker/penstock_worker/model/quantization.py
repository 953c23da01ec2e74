"""How weights are stored in fewer bits, as plain arithmetic: the native kernels do the same.

int8: a scale per output, and per token for the inputs, both chosen by the largest magnitude
(dynamic W8A8; Dettmers et al., "LLM.int8()", 2022, without its outliers). int4: weight-only, a
minimum and a scale per 64 inputs of an output, both rounded to bfloat16 (asymmetric round to
nearest, as in Frantar et al., "GPTQ", 2022, §3, without its second-order correction). With int4 the
head stays in int8: its errors fall on the logits, with no layer to even them out.
"""

import torch
from torch import Tensor

GROUP = 64
"""Inputs that share an int4 scale and minimum."""

HEAD = {"none": "none", "int8": "int8", "int4": "int8"}
"""How the head is stored, by how the layers are."""

_TINY = 1e-12
"""Keeps the scale of an all-zero row from being zero."""


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers in [-127, 127], as floats, and a factor per row.

    x [rows, columns]; the product of the two is close to x. Factors [rows, 1].
    """
    top = x.abs().amax(-1, keepdim=True).clamp(min=_TINY)
    return (x * (127.0 / top)).round(), top / 127.0


def int4_values(weight: Tensor) -> Tensor:
    """Return the values that an int4 weight stands for. weight [out, in]; result likewise."""
    outputs, inputs = weight.shape
    padding = -inputs % GROUP
    groups = torch.nn.functional.pad(weight.float(), (0, padding), mode="constant", value=torch.nan)
    groups = groups.view(outputs, -1, GROUP)
    low, high = _finite(groups, torch.inf).amin(-1), _finite(groups, -torch.inf).amax(-1)
    scale = ((high - low) / 15.0).clamp(min=_TINY).bfloat16().float()[..., None]
    low = low.bfloat16().float()[..., None]
    steps = ((groups - low) / scale).round().clamp(0, 15)
    return (low + steps * scale).view(outputs, -1)[:, :inputs].contiguous()


def _finite(groups: Tensor, otherwise: float) -> Tensor:
    return torch.where(groups.isnan(), otherwise, groups)
