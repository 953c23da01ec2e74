"""LoRA adapters (Hu et al., "LoRA", 2021): fine-tunes of one base model, many in one batch."""
