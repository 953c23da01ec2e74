"""The random models of the engine's benchmarks, made from a seed.

A Llama of 56.9 million parameters, and a Mixtral of the same width whose experts are half as wide
as its MLP: two of them are chosen, so that a token meets as many weights.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 32000, 512, 1536, 8, 8, 2, 64


CHOSEN = 2
"""Experts of a token."""


@dataclass(frozen=True)
class Shape:
    """How many weights there are, in all layers together; with 0 experts it is the Llama."""

    experts: int = 0
    head_weights = VOCAB * HIDDEN
    attention_weights = LAYERS * HIDDEN * (2 * HEADS * HEAD_DIM + 2 * KV_HEADS * HEAD_DIM)
    mlp_weights = LAYERS * HIDDEN * 3 * INNER
    """That a token meets."""

    @property
    def layer_weights(self) -> int:
        """How many a token meets."""
        return self.attention_weights + self.mlp_weights + LAYERS * HIDDEN * self.experts

    def read_weights(self, tokens: int) -> float:
        """How many a step with so many tokens reads, where experts are chosen evenly."""
        if not self.experts:
            return self.layer_weights
        chosen = self.experts * (1 - (1 - CHOSEN / self.experts) ** tokens)
        return self.layer_weights + self.mlp_weights * (chosen / CHOSEN - 1)


def make_model(folder: Path, experts: int = 0) -> Path:
    """Write the checkpoint in float32 into `folder`, unless it is there; return the folder."""
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_tensors(experts), folder / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(folder)
        config = json.dumps(_config(experts), indent=2)
        (folder / "config.json").write_text(config, encoding="utf-8")
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


def _tensors(experts: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def random(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

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
        }
        tensors |= {prefix + name: random(*shape) for name, shape in _mlp(experts)}
    return tensors


def _mlp(experts: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield names and shapes of a layer's MLP, or of its router and experts."""
    if not experts:
        yield "mlp.gate_proj.weight", (INNER, HIDDEN)
        yield "mlp.up_proj.weight", (INNER, HIDDEN)
        yield "mlp.down_proj.weight", (HIDDEN, INNER)
        return
    yield "block_sparse_moe.gate.weight", (experts, HIDDEN)
    inner = INNER // CHOSEN
    for expert in range(experts):
        yield f"block_sparse_moe.experts.{expert}.w1.weight", (inner, HIDDEN)
        yield f"block_sparse_moe.experts.{expert}.w3.weight", (inner, HIDDEN)
        yield f"block_sparse_moe.experts.{expert}.w2.weight", (HIDDEN, inner)


def _config(experts: int) -> dict[str, object]:
    llama = {
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
    if not experts:
        return llama
    return llama | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "intermediate_size": INNER // CHOSEN,
        "num_local_experts": experts,
        "num_experts_per_tok": CHOSEN,
        "sliding_window": None,
    }
