"""Write a checkpoint in Hugging Face's layout, whole or not at all, and read one back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from llama import Llama, LlamaConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from vocabulary import BOS, END, PAD, save_tokenizer, token_id


def save_checkpoint(folder: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Write weights, shape, generation defaults and tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    bos, end, pad = (token_id(tokenizer, token) for token in (BOS, END, PAD))
    config = model.model.config
    _write_json(folder / "config.json", config.to_json(bos, end, pad))
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": bos,
            "eos_token_id": [end],
            "pad_token_id": pad,
            "do_sample": False,
            "max_new_tokens": 256,
        },
    )
    save_tokenizer(tokenizer, folder, config.max_position_embeddings)
    # The output matrix is the embedding matrix, so it is not stored a second time.
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.named_parameters()
    }
    partial = folder / "model.safetensors.partial"
    save_file(weights, str(partial), metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")


def load_checkpoint(folder: Path) -> tuple[Llama, Tokenizer]:
    """Return the model, its weights widened to float32, and its tokenizer."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = {name: stored[name] for name in LlamaConfig.__dataclass_fields__}
    model = Llama(LlamaConfig(**shape))
    weights = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
