"""Where the gateway learns which models and workers exist."""
