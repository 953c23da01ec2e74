"""Reads a rank's part of a checkpoint: of each tensor only the rows or columns that are its own."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.model.loader import Checkpoint
from penstock_worker.tensor_parallel.shares import Cuts


class DividedCheckpoint(Checkpoint):
    """A checkpoint as one of several ranks sees it.

    Args:
        folder, dtype, device: see `Checkpoint`.
        cuts: where tensors are cut.
        first: whether this is the first rank, which adds what must be added once.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device, cuts: Cuts, *, first: bool
    ) -> None:
        super().__init__(folder, dtype, device)
        self._cuts = cuts
        self._first = first

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Return the rank's part of a tensor, `shape`; see `Checkpoint.take`.

        The last part of a vocabulary that cannot be divided ends in rows of zeros.
        """
        cut = self._cuts.find(name, shape)
        if cut is None:
            found = super().take(name, shape, dtype)
            once = name.endswith("o_proj.bias")
            return found if self._first or not once else torch.zeros_like(found)
        whole = [*shape]
        whole[cut.dim] = cut.whole
        index = [slice(None)] * cut.dim + [slice(cut.start, cut.stop)]
        part = self._read(name, tuple(whole), tuple(index)).to(dtype or self._dtype)
        missing = shape[cut.dim] - part.shape[cut.dim]
        return functional.pad(part, (0, 0, 0, missing)) if missing else part.contiguous()
