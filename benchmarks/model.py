"""The random Llama of the engine's benchmarks: 56.9 million parameters, made from a seed."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32000, 512, 1536, 8, 8, 2, 64


class Shape:
    """How many weights a token meets."""

    layer_weights = LAYERS * HIDDEN * (2 * HEADS * HEAD_DIM + 2 * KV_HEADS * HEAD_DIM + 3 * INNER)
    head_weights = VOCAB * HIDDEN


def make_model(folder: Path) -> Path:
    """Write the checkpoint in float32 into `folder`, unless it is there; return the folder."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(folder)
        (folder / "config.json").write_text(json.dumps(_config(), indent=2), encoding="utf-8")
    return folder


def token_name(token: int) -> str:
    """Return how a token is spelled where an engine wants words."""
    return f"<{token}>"


def _write_tokenizer(folder: Path) -> None:
    """Write a vocabulary of numbers; only CTranslate2's converter asks for one."""
    names = {token_name(token): token for token in range(VOCAB)}
    tokenizer = Tokenizer(WordLevel(names, unk_token=token_name(0)))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"unk_token": token_name(0), "bos_token": token_name(1), "eos_token": token_name(2)}
    text = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special})
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def random(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    tensors = {
        "model.embed_tokens.weight": random(VOCAB, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN),
        "lm_head.weight": random(VOCAB, HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {
            f"{prefix}input_layernorm.weight": torch.ones(HIDDEN),
            f"{prefix}post_attention_layernorm.weight": torch.ones(HIDDEN),
            f"{prefix}self_attn.q_proj.weight": random(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.k_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.v_proj.weight": random(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}self_attn.o_proj.weight": random(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}mlp.gate_proj.weight": random(INNER, HIDDEN),
            f"{prefix}mlp.up_proj.weight": random(INNER, HIDDEN),
            f"{prefix}mlp.down_proj.weight": random(HIDDEN, INNER),
        }
    return tensors


def _config() -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
