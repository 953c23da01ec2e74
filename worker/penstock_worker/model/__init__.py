"""One decoder, described by its configuration, loaded from Hugging Face checkpoints."""
