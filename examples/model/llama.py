"""The model in plain PyTorch, under the parameter names of Hugging Face's `LlamaForCausalLM`.

Written out, since training on a CPU has no time for what a general library does around each layer,
and so that a checkpoint is the state dict as it is, under the names that every engine reads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader knows
from torch import Tensor, nn


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of the model; field names are those of `config.json`."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    def to_json(self, bos: int, eos: int, pad: int) -> dict[str, Any]:
        """Return what Hugging Face's loaders expect to read."""
        shape = asdict(self)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **shape,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "rope_scaling": None,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "tie_word_embeddings": True,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "torch_dtype": "bfloat16",
            "use_cache": True,
        }


class RMSNorm(nn.Module):
    """Scales by the root mean square; one weight per channel."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to (batch, heads, time, head_dim), halves as Llama pairs them."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Causal attention in which several query heads share one key and value head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend within each row of the batch."""
        batch, time, _ = x.shape
        query, key, value = (
            projection(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))
        return output


class MLP(nn.Module):
    """SwiGLU: a gate decides what passes of a wider projection."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position on its own."""
        output: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class Layer(nn.Module):
    """One decoder layer, normalised before attention and before the MLP."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add both sublayers to the residual stream."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output


class Decoder(nn.Module):
    """Embeddings, layers and the last norm: what the checkpoint calls `model`."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        angles = torch.outer(
            torch.arange(config.max_position_embeddings).float(), config.rope_theta**-exponents
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the normalised hidden state of every position."""
        x = self.embed_tokens(ids)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        x = x.to(kind)
        cos, sin = self.cos[: ids.shape[1]].to(kind), self.sin[: ids.shape[1]].to(kind)
        for layer in self.layers:
            x = layer(x, cos, sin)
        output: Tensor = self.norm(x)
        return output


class Llama(nn.Module):
    """The language model; its output matrix is its embedding matrix."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (
                    1 / math.sqrt(2 * config.num_hidden_layers)
                    if name.endswith(("o_proj.weight", "down_proj.weight"))
                    else 1.0
                )
                nn.init.normal_(parameter, std=0.02 * scale)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy of the targets that are not negative.

        Only those positions reach the output matrix: in chat rows most positions are not taught.
        """
        hidden = self.model(ids)
        taught = targets >= 0
        logits = F.linear(hidden[taught], self.model.embed_tokens.weight.to(hidden.dtype))
        return F.cross_entropy(logits.float(), targets[taught], reduction="sum")

    def logits(self, ids: Tensor) -> Tensor:
        """Return the scores of every next token at every position."""
        return F.linear(self.model(ids), self.model.embed_tokens.weight)
