"""The native library for tests, compiled at most once per user; None without a compiler."""

import functools
from pathlib import Path

from penstock_worker.native import build
from penstock_worker.native.levels import this_machine


@functools.cache
def native_library() -> Path | None:
    """Return the library for this machine, compiling it where that is possible."""
    found = build.find()
    if found is None and this_machine():
        try:
            found = build.build(this_machine()[0], build.cache_folder())
        except build.BuildFailed:
            return None
    return found
