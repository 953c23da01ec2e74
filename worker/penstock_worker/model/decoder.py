"""The decoder in plain PyTorch, for every family: always there, and what others are compared with.

Rows are tokens; nothing is padded. Per layer: norm, one fused projection for query, key and value,
rotary positions, paged attention, output projection, norm, an MLP or experts. What a family does
besides is a switch of its configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.features import Tap
from penstock_worker.attention.interface import AttentionBackend, StepAttention
from penstock_worker.lora.adapter import Adapter
from penstock_worker.lora.deltas import NO_DELTAS, Deltas, StepDeltas
from penstock_worker.model.collectives import ALONE, Collectives
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.expert_weights import MlpWeights
from penstock_worker.model.experts import Experts
from penstock_worker.model.interface import Batch
from penstock_worker.model.latent_layer import LatentLayer
from penstock_worker.model.layers import Linear, capped, rotary_tables, rotate
from penstock_worker.model.mlp import ACTIVATIONS, Mlp
from penstock_worker.model.quantization import HEAD
from penstock_worker.model.weights import LayerWeights, Weights


@dataclass(frozen=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    query_key_norm: Tensor | None
    """[heads + kv_heads, head_dim]"""
    latent: LatentLayer | None
    output: Linear
    attention_post_norm: Tensor | None
    mlp_norm: Tensor
    mlp: Mlp | Experts
    mlp_post_norm: Tensor | None


class TorchDecoder:
    """A causal language model over paged KV.

    Args:
        config: its shape.
        weights: its tensors, in the type that it computes in.
        attention: over the pool that keeps its KV.
        max_model_len: positions that the rotary tables cover.
        quantization: of the linear layers' weights: none, int8 or int4.
        adapters: that the batch's sequences may name.
        collectives: among the ranks that share the model; config and weights are this one's part.
        tap: where it leaves features for a head.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        attention: AttentionBackend,
        max_model_len: int,
        quantization: str = "none",
        adapters: Sequence[Adapter] = (),
        collectives: Collectives = ALONE,
        tap: Tap | None = None,
    ) -> None:
        self._config = config
        self._collectives = collectives
        self.adapters = Deltas(adapters, config)
        self._attention = attention
        self._embeddings = weights.embeddings
        self._tap = tap
        self._fusion = None if tap is None else tap.fusion.to(weights.embeddings.dtype)
        self._tapped: list[Tensor] = []
        dtype, device = weights.embeddings.dtype, weights.embeddings.device
        self._layers = [_layer(layer, config, quantization, dtype) for layer in weights.layers()]
        self._norm = weights.norm.to(dtype)
        self._head = Linear(weights.head, None, HEAD[quantization])
        self._tables = {
            rope: [
                table.to(device, dtype)
                for table in rotary_tables(rope, config.rotary_dim, max_model_len)
            ]
            for rope in {config.rope, config.sliding_rope}
        }

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`."""
        return self.predicted(self._outputs(batch))

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        return self.likeliest(self._outputs(batch))

    def predicted(self, hidden: Tensor) -> Tensor:
        """Return float32 logits. hidden [rows, hidden]; result [rows, vocab]."""
        logits = self._collectives.joined(self._head(hidden).float())
        return capped(logits, self._config.logit_cap)

    def likeliest(self, hidden: Tensor) -> list[int]:
        """Return each row's likeliest token. hidden [rows, hidden]."""
        logits = capped(self._head(hidden).float(), self._config.logit_cap)
        return self._collectives.likeliest(logits)

    def _outputs(self, batch: Batch) -> Tensor:
        hidden = self.hidden(
            torch.tensor(batch.tokens),
            torch.tensor(batch.positions),
            self._attention.begin(batch.sequences),
            self.adapters.begin(batch),
        )
        if self._tap is not None and self._fusion is not None:
            fused = functional.linear(torch.cat(self._tapped, -1), self._fusion)
            pool = self._tap.pool
            pool.stored[pool.slots(batch.sequences)] = fused.to(pool.stored.dtype)
        return hidden[batch.output_rows]

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: StepAttention,
        deltas: StepDeltas = NO_DELTAS,
    ) -> Tensor:
        """Return the last hidden states. tokens, positions [tokens]; result [tokens, hidden]."""
        config = self._config
        tables = {
            rope: [table.index_select(0, positions) for table in found]
            for rope, found in self._tables.items()
        }
        collectives = self._collectives
        x = collectives.embedded(self._embeddings, tokens) * config.embedding_scale
        self._tapped = []
        for index, layer in enumerate(self._layers):
            self._note(index, x)
            normed = self._normed(x, layer.input_norm)
            qkv = deltas.add(index, "qkv", normed, layer.qkv(normed))
            cos, sin = tables[config.sliding_rope if config.windows[index] else config.rope]
            attended = self._attended(index, layer, qkv, cos, sin, attention)
            found = deltas.add(index, "output", attended, layer.output(attended))
            found = collectives.sum(found)
            x = x + self._post_normed(found, layer.attention_post_norm)
            normed = self._normed(x, layer.mlp_norm)
            found = collectives.sum(layer.mlp(normed, deltas, index))
            x = x + self._post_normed(found, layer.mlp_post_norm)
        self._note(len(self._layers), x)
        return self._normed(x, self._norm)

    def _note(self, layer: int, x: Tensor) -> None:
        """Keep what goes into a layer, if features are made of it."""
        if self._tap is not None:
            self._tapped += [x] * self._tap.layers.count(layer)

    def _attended(
        self,
        index: int,
        layer: _Layer,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention: StepAttention,
    ) -> Tensor:
        """Return what a layer's heads found, [tokens, inputs of the output projection]."""
        if layer.latent is not None:
            return layer.latent.attend(index, qkv, cos, sin, attention)
        heads, kv_heads = self._config.num_heads, self._config.num_kv_heads
        qkv = qkv.view(-1, heads + 2 * kv_heads, self._config.head_dim)
        query_key, value = torch.split(qkv, [heads + kv_heads, kv_heads], 1)
        if layer.query_key_norm is not None:
            query_key = self._normed(query_key) * layer.query_key_norm
        query, key = torch.split(rotate(query_key, cos, sin), [heads, kv_heads], 1)
        return attention.attend(index, query, key, value)

    def _post_normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else self._normed(x, weight)

    def _normed(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._config.rms_norm_eps)


def _layer(
    weights: LayerWeights, config: ModelConfig, quantization: str, dtype: torch.dtype
) -> _Layer:
    def norm(weight: Tensor | None) -> Tensor | None:
        return None if weight is None else weight.to(dtype)

    latent = None
    if config.latent and weights.latent:
        latent = LatentLayer(config.latent, weights.latent, config.num_heads, quantization, dtype)
    activation = ACTIVATIONS[config.activation]
    return _Layer(
        input_norm=weights.input_norm.to(dtype),
        qkv=Linear(weights.qkv, weights.qkv_bias, quantization),
        query_key_norm=norm(weights.query_key_norm),
        latent=latent,
        output=Linear(weights.output, weights.output_bias, quantization),
        attention_post_norm=norm(weights.attention_post_norm),
        mlp_norm=weights.mlp_norm.to(dtype),
        mlp=(
            Mlp(weights.mlp, activation, quantization)
            if isinstance(weights.mlp, MlpWeights)
            else Experts(weights.mlp, activation, quantization)
        ),
        mlp_post_norm=norm(weights.mlp_post_norm),
    )
