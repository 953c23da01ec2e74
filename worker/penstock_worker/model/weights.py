"""A checkpoint's tensors by their role, fused as the decoder uses them, whatever computes it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penstock_worker.attention.latent import Expansion
from penstock_worker.model import latent_weights
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.expert_weights import (
    MlpWeights,
    SparseWeights,
    read_mlp,
    read_sparse,
)
from penstock_worker.model.latent_config import LatentConfig
from penstock_worker.model.latent_weights import LatentWeights
from penstock_worker.model.loader import Checkpoint


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Weights are [out, in], biases [out] or None, norms [hidden] and float32."""

    input_norm: Tensor
    qkv: Tensor
    """Query heads, then key heads, then value heads; with latents what makes queries, then latent
    and rotary key."""
    qkv_bias: Tensor | None
    query_key_norm: Tensor | None
    """[heads + kv_heads, head_dim]"""
    output: Tensor
    output_bias: Tensor | None
    attention_post_norm: Tensor | None
    """Of what attention gives, before it is added; None without one."""
    mlp_norm: Tensor
    mlp_post_norm: Tensor | None
    mlp: MlpWeights | SparseWeights
    latent: LatentWeights | None = None


class DecoderWeights(Protocol):
    """What a decoder is made of."""

    embeddings: Tensor
    """[vocab, hidden]"""
    norm: Tensor
    """[hidden], float32, of the last norm."""
    head: Tensor
    """[vocab, hidden]"""

    def layers(self) -> Iterator[LayerWeights]:
        """Yield every layer, once."""

    def expansion(self, layer: int, latent: LatentConfig) -> Expansion:
        """Return what makes keys and values of a layer's latents, where it has some."""


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

    def expansion(self, layer: int, latent: LatentConfig) -> Expansion:
        """Return what makes keys and values of a layer's latents."""
        take = self._attention(f"model.layers.{layer}.")
        return latent_weights.read_expansion(take, self._config.num_heads, latent)

    def layers(self) -> Iterator[LayerWeights]:
        """Yield every layer, once; then refuse tensors that nobody knows."""
        for index in range(self._config.num_layers):
            yield self._layer(index)
        config = self._config
        for index in range(config.num_layers, config.num_layers + config.predicting_layers):
            self._checkpoint.ignore(f"model.layers.{index}.")
        tied = config.tie_word_embeddings
        self._checkpoint.refuse_leftovers(*(["lm_head.weight"] if tied else []))

    def _layer(self, index: int) -> LayerWeights:
        config, prefix = self._config, f"model.layers.{index}."
        hidden, latent = config.hidden_size, config.latent
        values = latent.value_dim if latent else config.head_dim

        def take(name: str, *shape: int) -> Tensor:
            return self._checkpoint.take(prefix + name, shape)

        def norm(name: str) -> Tensor:
            return self._norm(f"{prefix}{name}_layernorm.weight", hidden)

        output_bias = "self_attn.o_proj.bias"
        has_output_bias = config.qkv_bias and prefix + output_bias in self._checkpoint
        return LayerWeights(
            input_norm=norm("input"),
            qkv=self._qkv(prefix),
            qkv_bias=self._qkv_bias(prefix) if config.qkv_bias else None,
            query_key_norm=self._query_key_norm(prefix) if config.qk_norm else None,
            output=take("self_attn.o_proj.weight", hidden, config.num_heads * values),
            output_bias=take(output_bias, hidden) if has_output_bias else None,
            attention_post_norm=norm("post_attention") if config.post_norms else None,
            mlp_norm=norm("pre_feedforward" if config.post_norms else "post_attention"),
            mlp_post_norm=norm("post_feedforward") if config.post_norms else None,
            mlp=self._mlp(index),
            latent=latent_weights.read_latent(self._attention(prefix), config.num_heads, latent)
            if latent
            else None,
        )

    def _mlp(self, index: int) -> MlpWeights | SparseWeights:
        config, prefix = self._config, f"model.layers.{index}."
        if config.experts is not None and config.experts.sparse[index]:
            return read_sparse(self._checkpoint, prefix, config.hidden_size, config.experts)
        return read_mlp(
            self._checkpoint, prefix + "mlp.", config.hidden_size, config.intermediate_size
        )

    def _attention(self, prefix: str) -> Callable[..., Tensor]:
        """Return what takes a tensor of a layer's attention, by its name and shape."""
        return lambda name, *shape: self._checkpoint.take(f"{prefix}self_attn.{name}", shape)

    def _qkv(self, prefix: str) -> Tensor:
        config, take = self._config, self._attention(prefix)
        if config.latent:
            return latent_weights.read_projection(
                take, config.num_heads, config.hidden_size, config.latent
            )
        parts = self._qkv_rows()
        return torch.cat(
            [take(f"{name}_proj.weight", rows, config.hidden_size) for name, rows in parts]
        )

    def _qkv_bias(self, prefix: str) -> Tensor:
        take = self._attention(prefix)
        return torch.cat([take(f"{name}_proj.bias", rows) for name, rows in self._qkv_rows()])

    def _qkv_rows(self) -> tuple[tuple[str, int], ...]:
        config = self._config
        query, kv = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
        return (("q", query), ("k", kv), ("v", kv))

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
