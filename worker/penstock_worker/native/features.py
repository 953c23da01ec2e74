"""Gives the native kernels what a head guesses by: where it is kept, and what makes it."""

import ctypes
from collections.abc import Callable

from torch import Tensor

from penstock_worker.attention.features import HeadInputs, Tap
from penstock_worker.native import library as native


def set_features(
    library: ctypes.CDLL,
    handle: int,
    features: Tap | HeadInputs,
    keep: Callable[[Tensor], int | None],
) -> None:
    """Say where features are.

    Args:
        library: the kernels.
        handle: the decoder: a model's, which leaves them, or a head's, which finds them.
        features: what it is to do.
        keep: returns the address of a tensor's data, and keeps it alive.
    """
    described = native.Features(pool=keep(features.pool.stored))
    if isinstance(features, Tap):
        described.taps = (ctypes.c_int32 * 3)(*features.layers)
    else:
        described.hidden_norm = keep(features.norm)
        described.normed = features.normed
    library.penstock_set_features(handle, ctypes.byref(described))
