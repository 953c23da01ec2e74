"""Brings a step's whole numbers to the device in one copy, through pinned memory."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 4
"""Numbers, 16 bytes: kernels are compiled for pointers that are so aligned."""


def stage(
    arrays: Sequence[NDArray[np.int32]], device: torch.device, into: Tensor | None = None
) -> list[Tensor]:
    """Return the arrays on the device.

    With `into`, a flat int32 tensor of the device that is large enough, they lie in it from its
    beginning on: arrays of the same shapes lie at the same places again. The copy is in the order
    of the device's other work; nothing here waits for it.
    """
    places, size = _places(arrays)
    flat = np.zeros(size, np.int32)
    for array, place in zip(arrays, places, strict=True):
        flat[place : place + array.size] = array.ravel()
    host = torch.from_numpy(flat)
    if device.type == "cuda":
        # PyTorch keeps pinned memory, and gives it out again only when its copy has been made.
        host = host.pin_memory()
    if into is None:
        there = host.to(device, non_blocking=True)
    else:
        there = into[:size].copy_(host, non_blocking=True)
    return [
        there[place : place + array.size].view(array.shape)
        for array, place in zip(arrays, places, strict=True)
    ]


def _places(arrays: Sequence[NDArray[np.int32]]) -> tuple[list[int], int]:
    """Return where each array begins, and where the last one ends."""
    places, end = [], 0
    for array in arrays:
        places.append(end)
        end += -(-array.size // ALIGNMENT) * ALIGNMENT
    return places, end
