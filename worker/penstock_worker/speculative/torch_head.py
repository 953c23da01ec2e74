"""An EAGLE-3 head in plain PyTorch: always there, and what the native one is compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from penstock_worker.attention.features import HeadInputs
from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.interface import Batch
from penstock_worker.model.layers import Linear, rotary_tables, rotate
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.model.mlp import ACTIVATIONS, Mlp
from penstock_worker.model.quantization import HEAD
from penstock_worker.speculative.head_weights import HeadWeights


class TorchHead:
    """Guesses from a token and what was thought in front of it.

    Args:
        config: its shape.
        weights: its tensors, in the type that it computes in.
        pool: keeps its KV.
        features: where it finds what was thought, and leaves what it thinks itself.
        max_model_len: positions that the rotary tables cover.
        how: it is computed.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: HeadWeights,
        pool: KVPool,
        features: HeadInputs,
        max_model_len: int,
        how: ExecutionConfig,
    ) -> None:
        self._config, self._pool, self._features = config, pool, features
        self._embeddings, quantization = weights.embeddings, how.quantization
        dtype = weights.head.dtype
        (layer,) = weights.layers()
        self._norms = [n.to(dtype) for n in (layer.input_norm, features.norm, layer.mlp_norm)]
        self._qkv = Linear(layer.qkv, layer.qkv_bias, quantization)
        self._output = Linear(layer.output, layer.output_bias, quantization)
        self._mlp = Mlp(weights.mlp(), ACTIVATIONS[config.activation], quantization)
        self._norm = weights.norm.to(dtype)
        self._head = Linear(weights.head, None, HEAD[quantization])
        tables = rotary_tables(config.rope, config.head_dim, max_model_len)
        self._tables = [table.to(dtype) for table in tables]

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        found: list[int] = self.logits(batch).argmax(-1).tolist()
        return found

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`; of the tokens that it can say."""
        states = self._states(batch)[batch.output_rows]
        slots = self._features.pool.slots(batch.sequences)[batch.output_rows]
        stored = self._features.pool.stored
        stored[slots] = states.to(stored.dtype)
        return self._head(self._normed(states, self._norm)).float()

    def _states(self, batch: Batch) -> Tensor:
        word_norm, hidden_norm, mlp_norm = self._norms
        x = self._before(batch.sequences)
        thought = self._normed(x, hidden_norm)
        words = self._normed(
            functional.embedding(torch.tensor(batch.tokens), self._embeddings).to(x.dtype),
            word_norm,
        )
        x = thought if self._features.normed else x
        x = x + self._output(self._attended(batch, self._qkv(torch.cat([words, thought], -1))))
        return x + self._mlp(self._normed(x, mlp_norm))

    def _before(self, sequences: list[Sequence]) -> Tensor:
        """Return what was thought in front of each row's token: nothing at the very first one."""
        pool, size = self._features.pool, self._features.pool.block_size
        places = [
            (one, place)
            for one in sequences
            for place in range(one.computed - 1, one.computed + one.count - 1)
        ]
        slots = [one.blocks[p // size] * size + p % size if p >= 0 else -1 for one, p in places]
        found = pool.stored[torch.tensor(slots).clamp(min=0)].to(self._norm.dtype)
        return found.masked_fill((torch.tensor(slots) < 0)[:, None], 0.0)

    def _attended(self, batch: Batch, qkv: Tensor) -> Tensor:
        config = self._config
        heads, kv_heads = config.num_heads, config.num_kv_heads
        qkv = qkv.view(len(qkv), -1, config.head_dim)
        turned, value = torch.split(qkv, [heads + kv_heads, kv_heads], 1)
        cos, sin = (table[torch.tensor(batch.positions)] for table in self._tables)
        query, key = torch.split(rotate(turned, cos, sin), [heads, kv_heads], 1)
        keys, values = self._pool.keys[0], self._pool.values[0]
        store = self._features.pool.slots(batch.sequences)
        keys[store], values[store] = key.to(keys.dtype), value.to(values.dtype)
        found = [
            self._seen(one, query[one.first_row : one.first_row + one.count], keys, values)
            for one in batch.sequences
        ]
        return torch.cat(found)

    def _seen(self, one: Sequence, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend within a sequence. query [rows, heads, dim]; result [rows, heads · dim]."""
        total = one.computed + one.count
        size, window = self._pool.block_size, self._config.windows[0]
        places = torch.arange(total)
        slots = torch.tensor(one.blocks)[places // size] * size + places % size
        rows = torch.arange(one.computed, total)[:, None]
        mask = places <= rows
        mask &= (places > 0) | (rows == 0)  # nothing was thought in front of the first token
        if window:
            mask &= places > rows - window
        found = functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys[slots].transpose(0, 1)[None].to(query.dtype),
            values[slots].transpose(0, 1)[None].to(query.dtype),
            mask,
            enable_gqa=True,
            scale=self._config.query_scale,
        )
        return found[0].transpose(0, 1).flatten(1)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._config.rms_norm_eps)
