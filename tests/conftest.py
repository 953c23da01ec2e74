"""What has to be so before anything is imported."""

import os

from hypothesis import settings

# The GPU's kernels are interpreted on the CPU. Triton reads this when it is imported, and
# transformers imports it where it is installed.
os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
