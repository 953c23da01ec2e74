"""Models that compute inputs only: texts into vectors, pairs into scores. No KV, no tokens out."""
