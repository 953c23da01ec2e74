"""Reads tensors from safetensors checkpoints, single or sharded, checked before use.

safetensors only: a pickle can run code when it is read. Shards may lie nowhere but in the folder.
Files are mapped, not read, so only what is used is paged in.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from penstock_worker.model.config import UnsupportedModel
from penstock_worker.model.files import weight_files


class Checkpoint:
    """The tensors of a checkpoint by name; use as a context manager.

    Args:
        folder: the checkpoint in Hugging Face layout.
        dtype: every tensor is converted to it.
        device: in whose memory the tensors are wanted.

    Raises:
        UnsupportedModel: there are no safetensors, or one of the files is damaged.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        self._unread: set[str] = set()
        for path in weight_files(folder):
            try:
                opened = self._stack.enter_context(
                    safe_open(str(path), framework="pt", device=str(device))
                )
            except (OSError, SafetensorError) as error:
                raise UnsupportedModel(f"{path.name} is not a safetensors file: {error}") from error
            self._file_of.update(dict.fromkeys(opened.keys(), opened))
        self._unread.update(self._file_of)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def take(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return a tensor after checking its shape, converted to the checkpoint's type or `dtype`.

        Raises:
            UnsupportedModel: it is missing, or its shape contradicts config.json.
        """
        return self._read(name, shape, ()).to(dtype or self._dtype)

    def _read(self, name: str, shape: tuple[int, ...], part: tuple[slice, ...]) -> torch.Tensor:
        """Return a tensor after checking its shape, or a part of it: then no more is read."""
        if name not in self._file_of:
            raise UnsupportedModel(f"the checkpoint has no tensor {name}")
        found = self._file_of[name].get_slice(name)
        if tuple(found.get_shape()) != shape:
            raise UnsupportedModel(
                f"{name} has shape {tuple(found.get_shape())}, config.json says {shape}"
            )
        self._unread.discard(name)
        tensor: torch.Tensor = found[part] if part else self._file_of[name].get_tensor(name)
        return tensor

    def ignore(self, prefix: str) -> None:
        """Leave out the tensors whose names begin so."""
        self._unread = {name for name in self._unread if not name.startswith(prefix)}

    def refuse_leftovers(self, *known: str) -> None:
        """Refuse tensors that nobody took: the model has parts that would be ignored."""
        extra = sorted(
            name for name in self._unread if not name.endswith((*known, "rotary_emb.inv_freq"))
        )
        if extra:
            raise UnsupportedModel(f"the checkpoint has tensors of another model: {extra[:3]}")
