"""Whether KV of one engine means the same in another: which model, of which type, in which layout.

Of the weights, every tensor's name, type and shape count, and 4 KiB from its middle: a fine-tune
changes whole matrices, and to read everything would take as long as loading it. Kernels and
processors do not count: their KV differs by rounding, as it does within one engine. Adapters come
and go, so they count in the names of their blocks (`penstock_contract.blocks.adapter_salt`).
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from penstock_worker.model.config import ModelConfig

SAMPLE_BYTES = 4096
_LAYOUT = "layers × (keys, values, or latents alone) × [block_size, kv_heads, head_dim]"


def fingerprint(
    shape: ModelConfig,
    weights: Iterable[Path],
    *,
    block_size: int,
    dtype: str,
    quantization: str,
) -> bytes:
    """Return 32 bytes that are equal for engines whose KV is interchangeable.

    Args:
        shape: the model's configuration.
        weights: its safetensors files.
        block_size: tokens per block.
        dtype: of the KV, as `ExecutionConfig.kv_kind` names it.
        quantization: of the weights, as they are computed with.
    """
    digest = hashlib.blake2b(digest_size=32)
    digest.update(repr((_LAYOUT, shape, block_size, dtype, quantization)).encode())
    for path in weights:
        _add_weights(digest, path)
    return digest.digest()


def _add_weights(digest: hashlib.blake2b, path: Path) -> None:
    """Add a safetensors file: u64 little-endian length, header as JSON, then the data."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = file.read(length)
        digest.update(header)
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        for _, tensor in sorted(tensors.items()):
            begin, end = tensor["data_offsets"]
            middle = (begin + end) // 2
            file.seek(8 + length + middle)
            digest.update(file.read(min(SAMPLE_BYTES, end - middle)))
