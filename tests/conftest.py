"""What has to be so before anything is imported."""

import os

# The GPU's kernels are interpreted on the CPU. Triton reads this when it is imported, and
# transformers imports it where it is installed.
os.environ.setdefault("TRITON_INTERPRET", "1")
