"""Gives the native kernels what latent attention needs of a model."""

import ctypes

from penstock_worker.attention.latent import Expansion
from penstock_worker.model.latent_config import LatentConfig


def latent_shape(latent: LatentConfig | None) -> dict[str, int]:
    """Return the fields of `Shape` that describe it; none without it."""
    if latent is None:
        return {}
    return {
        "query_rank": latent.query_rank,
        "rank": latent.rank,
        "plain": latent.plain_dim,
        "rotary": latent.rotary_dim,
        "value_dim": latent.value_dim,
    }


def set_expansion(
    library: ctypes.CDLL, handle: int, layer: int, kind: int, expansion: Expansion
) -> None:
    """Set what makes a layer's keys and values of latents.

    Args:
        library: the kernels.
        handle: the decoder.
        layer: its number.
        kind: how the weights are stored, of KINDS.
        expansion: the weights.

    Raises:
        MemoryError: they do not fit.
    """
    absorbing = expansion.keys.transpose(1, 2)  # queries are multiplied with it, not latents
    for of_values, each in enumerate((absorbing, expansion.values)):
        weight = each.float().contiguous()
        failed = library.penstock_set_expansion(
            handle, layer, of_values, kind, *weight.shape[1:], weight.data_ptr()
        )
        if failed:
            raise MemoryError("the packed weights do not fit into memory")
