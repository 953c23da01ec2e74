"""One decoder for every family, described by `ModelConfig`. Rows are tokens; nothing is padded.

Per layer: norm, one fused projection for query, key and value, rotary positions, paged attention,
output projection, norm, one fused projection for gate and up, SiLU, down projection.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.interface import StepAttention
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.layers import Linear, rotary_tables, rotate
from penstock_worker.model.loader import Checkpoint


@dataclass(frozen=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    query_key_norm: Tensor | None
    """[heads + kv_heads, head_dim]"""
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """A causal language model over paged KV.

    Args:
        config: its shape.
        checkpoint: where its tensors come from.
        max_model_len: positions that the rotary tables cover.

    Raises:
        UnsupportedModel: the tensors contradict the configuration.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, max_model_len: int) -> None:
        self.config = config
        vocab = (config.vocab_size, config.hidden_size)
        self._embeddings = checkpoint.take("model.embed_tokens.weight", vocab)
        self._layers = [_layer(config, checkpoint, i) for i in range(config.num_layers)]
        self._norm = checkpoint.take("model.norm.weight", (config.hidden_size,))
        tied = config.tie_word_embeddings
        self._head = Linear(self._embeddings if tied else checkpoint.take("lm_head.weight", vocab))
        checkpoint.refuse_leftovers(*(["lm_head.weight"] if tied else []))
        cos, sin = rotary_tables(config, max_model_len)
        self._cos, self._sin = cos.to(self._embeddings.dtype), sin.to(self._embeddings.dtype)

    def hidden(self, tokens: Tensor, positions: Tensor, attention: StepAttention) -> Tensor:
        """Return the last hidden states. tokens, positions [tokens]; result [tokens, hidden]."""
        config = self.config
        cos, sin = self._cos[positions], self._sin[positions]
        heads, kv_heads = config.num_heads, config.num_kv_heads
        x = self._embeddings[tokens]
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(self._normed(x, layer.input_norm))
            qkv = qkv.view(-1, heads + 2 * kv_heads, config.head_dim)
            query_key, value = torch.split(qkv, [heads + kv_heads, kv_heads], 1)
            if layer.query_key_norm is not None:
                query_key = self._normed(query_key) * layer.query_key_norm
            query, key = torch.split(rotate(query_key, cos, sin), [heads, kv_heads], 1)
            x = x + layer.output(attention.attend(index, query, key, value))
            gate, up = layer.gate_up(self._normed(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(functional.silu(gate) * up)
        return self._normed(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits. hidden [rows, hidden]; result [rows, vocab]."""
        return self._head(hidden).float()

    def _normed(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self.config.rms_norm_eps)


def _layer(config: ModelConfig, checkpoint: Checkpoint, index: int) -> _Layer:
    prefix = f"model.layers.{index}."
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, kv = config.num_heads * dim, config.num_kv_heads * dim

    def take(name: str, *shape: int) -> Tensor:
        return checkpoint.take(prefix + name, shape)

    attention = "self_attn."
    weights = [
        take(f"{attention}{name}_proj.weight", rows, hidden)
        for name, rows in (("q", query), ("k", kv), ("v", kv))
    ]
    biases = [
        take(f"{attention}{name}_proj.bias", rows)
        for name, rows in (("q", query), ("k", kv), ("v", kv))
        if config.qkv_bias
    ]
    output_bias = f"{attention}o_proj.bias"
    has_output_bias = config.qkv_bias and prefix + output_bias in checkpoint
    query_key_norm = None
    if config.qk_norm:
        query_key_norm = torch.cat(
            [
                take(f"{attention}q_norm.weight", dim).expand(config.num_heads, -1),
                take(f"{attention}k_norm.weight", dim).expand(config.num_kv_heads, -1),
            ]
        )
    gate_up = [take(f"mlp.{name}_proj.weight", inner, hidden) for name in ("gate", "up")]
    return _Layer(
        input_norm=take("input_layernorm.weight", hidden),
        qkv=Linear(torch.cat(weights), torch.cat(biases) if biases else None),
        query_key_norm=query_key_norm,
        output=Linear(
            take(f"{attention}o_proj.weight", hidden, query),
            take(output_bias, hidden) if has_output_bias else None,
        ),
        mlp_norm=take("post_attention_layernorm.weight", hidden),
        gate_up=Linear(torch.cat(gate_up)),
        down=Linear(take("mlp.down_proj.weight", hidden, inner)),
    )


def load_decoder(
    folder: Path, config: ModelConfig, dtype: torch.dtype, max_model_len: int
) -> Decoder:
    """Return the decoder of the checkpoint in `folder`, in compute type `dtype`."""
    with Checkpoint(folder, dtype) as checkpoint:
        return Decoder(config, checkpoint, max_model_len)
