"""A checkpoint's tensors by their role, fused as the decoder uses them, whatever computes it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_worker.model.config import ModelConfig
from penstock_worker.model.loader import Checkpoint


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Weights are [out, in], biases [out] or None, norms [hidden] and float32."""

    input_norm: Tensor
    qkv: Tensor
    """Query heads, then key heads, then value heads."""
    qkv_bias: Tensor | None
    query_key_norm: Tensor | None
    """[heads + kv_heads, head_dim]"""
    output: Tensor
    output_bias: Tensor | None
    attention_post_norm: Tensor | None
    """Of what attention gives, before it is added; None without one."""
    mlp_norm: Tensor
    mlp_post_norm: Tensor | None
    gate: Tensor
    up: Tensor
    down: Tensor


class Weights:
    """The tensors of a decoder; layers are read one at a time, so no more than one is in memory.

    Raises:
        UnsupportedModel: the tensors contradict the configuration.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint) -> None:
        vocab = (config.vocab_size, config.hidden_size)
        tied = config.tie_word_embeddings
        self._config = config
        self._checkpoint = checkpoint
        self.embeddings = checkpoint.take("model.embed_tokens.weight", vocab)
        self.norm = self._norm("model.norm.weight", config.hidden_size)
        self.head = self.embeddings if tied else checkpoint.take("lm_head.weight", vocab)

    def layers(self) -> Iterator[LayerWeights]:
        """Yield every layer, once; then refuse tensors that nobody knows."""
        for index in range(self._config.num_layers):
            yield self._layer(f"model.layers.{index}.")
        tied = self._config.tie_word_embeddings
        self._checkpoint.refuse_leftovers(*(["lm_head.weight"] if tied else []))

    def _layer(self, prefix: str) -> LayerWeights:
        config = self._config
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        query, kv = config.num_heads * dim, config.num_kv_heads * dim
        parts = (("q", query), ("k", kv), ("v", kv))

        def take(name: str, *shape: int) -> Tensor:
            return self._checkpoint.take(prefix + name, shape)

        def norm(name: str) -> Tensor:
            return self._norm(f"{prefix}{name}_layernorm.weight", hidden)

        biases = [
            take(f"self_attn.{name}_proj.bias", rows) for name, rows in parts if config.qkv_bias
        ]
        output_bias = "self_attn.o_proj.bias"
        has_output_bias = config.qkv_bias and prefix + output_bias in self._checkpoint
        return LayerWeights(
            input_norm=norm("input"),
            qkv=torch.cat(
                [take(f"self_attn.{name}_proj.weight", rows, hidden) for name, rows in parts]
            ),
            qkv_bias=torch.cat(biases) if biases else None,
            query_key_norm=self._query_key_norm(prefix) if config.qk_norm else None,
            output=take("self_attn.o_proj.weight", hidden, query),
            output_bias=take(output_bias, hidden) if has_output_bias else None,
            attention_post_norm=norm("post_attention") if config.post_norms else None,
            mlp_norm=norm("pre_feedforward" if config.post_norms else "post_attention"),
            mlp_post_norm=norm("post_feedforward") if config.post_norms else None,
            gate=take("mlp.gate_proj.weight", inner, hidden),
            up=take("mlp.up_proj.weight", inner, hidden),
            down=take("mlp.down_proj.weight", hidden, inner),
        )

    def _query_key_norm(self, prefix: str) -> Tensor:
        config = self._config
        counts = (("q", config.num_heads), ("k", config.num_kv_heads))
        return torch.cat(
            [
                self._norm(f"{prefix}self_attn.{name}_norm.weight", config.head_dim).expand(
                    count, -1
                )
                for name, count in counts
            ]
        )

    def _norm(self, name: str, size: int) -> Tensor:
        return self._checkpoint.take(name, (size,)).float() + self._config.norm_offset
