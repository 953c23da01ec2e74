"""Reads an adapter at run time: checked against model, rank and memory, then packed for the model.

It runs beside the steps of an engine that serves: what is too large is refused before it is read.
"""

import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from penstock_worker.host_memory import available_memory
from penstock_worker.lora.adapter import load_adapter
from penstock_worker.lora.config import (
    CONFIG,
    WEIGHTS,
    UnsupportedAdapter,
    adapter_digest,
    read_adapter_config,
)
from penstock_worker.lora.shelf import AdapterHost, Read
from penstock_worker.model.config import ModelConfig

FLOAT32 = 4
SHARE = 0.5
"""Of the memory that is left, that one more adapter may take."""


def reader(
    host: AdapterHost,
    shape: ModelConfig,
    max_rank: int,
    available: Callable[[], int | None] = available_memory,
) -> Read:
    """Return what reads adapters for a model.

    Args:
        host: the model.
        shape: its configuration.
        max_rank: of adapters; 0 for any.
        available: returns the bytes that this process may still take.
    """

    def read(name: str, folder: Path) -> tuple[Any, bytes]:
        rank = read_adapter_config(folder).rank
        if max_rank and rank > max_rank:
            raise UnsupportedAdapter(
                f"{CONFIG}: r is {rank}, and --max-adapter-rank is {max_rank}: raise it, or train "
                "the adapter with a smaller rank"
            )
        size, left = _bytes(folder / WEIGHTS), available()
        if left is not None and size > left * SHARE:
            raise UnsupportedAdapter(
                f"it takes {size >> 20} MiB of memory, and {left >> 20} MiB are left, of which one "
                "adapter may take half: give the worker more memory, or unload others"
            )
        return host.prepare(load_adapter(name, folder, shape)), adapter_digest(folder)

    return read


def _bytes(weights: Path) -> int:
    """Return what the matrices take in float32, by the file's header."""
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, weights.stat().st_size)))
        header.pop("__metadata__", None)
        return FLOAT32 * sum(int(prod(tensor["shape"])) for tensor in header.values())
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UnsupportedAdapter(f"{weights.name} is not a safetensors file: {error}") from error
