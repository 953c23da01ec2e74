"""KV cache events: how a worker tells which prefixes it has cached, and what to believe of it."""
