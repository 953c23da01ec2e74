"""Settings of an engine process; the server writes them, the engine reads them. No torch here."""

import msgspec


class EngineConfig(msgspec.Struct, frozen=True):
    """Settings of an engine process."""

    model: str
    """Folder of the checkpoint."""
    dtype: str = "auto"
    """auto (float32 on a CPU), float32 or bfloat16."""
    max_model_len: int | None = None
    """Default: the model's own limit."""
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    prefix_caching: bool = True
    kv_cache_bytes: int | None = None
    """Default: enough for max_num_seqs full contexts, at most a quarter of free memory or 1 GiB."""
    threads: int | None = None
    """Compute threads; default: torch's choice."""
