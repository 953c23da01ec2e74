"""Who waits, who goes first and who is refused while a model's workers are full. Pure."""
