"""EAGLE-3 heads with random weights, for the tiny models, in both layouts that are published."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SAYS = 100
TAPS = (1, 2, 3)
SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 64,  # shorter than its model's: it guesses on, worse
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 320,
}


def make_head(folder: Path, *, speculators: bool = False, **changes: Any) -> dict[str, Tensor]:
    """Write a head for a tiny model; return its tensors, by their flat names.

    Args:
        folder: is made.
        speculators: the layout of that library, with embeddings of its own.
        changes: of its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"draft_vocab_size": SAYS, "eagle_aux_hidden_state_layer_ids": TAPS}
    layer, prefix = (
        ({"transformer_layer_config": SHAPE}, "layers.0.") if speculators else (SHAPE, "midlayer.")
    )
    named = "Eagle3Speculator" if speculators else "LlamaForCausalLMEagle3"
    config = {"architectures": [named], **told, **layer, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = _tensors(embeddings=speculators)
    stored = {
        name.replace("midlayer.", prefix): tensor.contiguous() for name, tensor in tensors.items()
    }
    save_file(stored, str(folder / "model.safetensors"))
    return tensors


def _tensors(*, embeddings: bool) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    hidden, inner, dim, vocab = 64, 96, 32, 320

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / math.sqrt(shape[-1])

    def norm() -> Tensor:
        return 1 + 0.2 * torch.randn(hidden, generator=draw)

    says = torch.randperm(vocab, generator=draw)[:SAYS].sort().values
    found = {
        "fc.weight": weight(hidden, 3 * hidden),
        "midlayer.hidden_norm.weight": norm(),
        "midlayer.input_layernorm.weight": norm(),
        "midlayer.post_attention_layernorm.weight": norm(),
        "midlayer.self_attn.q_proj.weight": weight(2 * dim, 2 * hidden),
        "midlayer.self_attn.k_proj.weight": weight(dim, 2 * hidden),
        "midlayer.self_attn.v_proj.weight": weight(dim, 2 * hidden),
        "midlayer.self_attn.o_proj.weight": weight(hidden, 2 * dim),
        "midlayer.mlp.gate_proj.weight": weight(inner, hidden),
        "midlayer.mlp.up_proj.weight": weight(inner, hidden),
        "midlayer.mlp.down_proj.weight": weight(hidden, inner),
        "norm.weight": norm(),
        "lm_head.weight": weight(SAYS, hidden),
        "d2t": says - torch.arange(SAYS),
        "t2d": torch.isin(torch.arange(vocab), says),
    }
    return found | ({"embed_tokens.weight": weight(vocab, hidden)} if embeddings else {})
