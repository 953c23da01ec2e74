"""The worker: a paged-attention engine behind an OpenAI-compatible server."""
