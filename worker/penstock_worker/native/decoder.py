"""The decoder whose whole step is one native call: weights packed at load, no operator dispatch."""

import ctypes
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock_worker.attention import interface
from penstock_worker.attention.features import HeadInputs, Tap
from penstock_worker.attention.pool import KVPool
from penstock_worker.lora.adapter import Adapter
from penstock_worker.model.config import ModelConfig
from penstock_worker.model.expert_weights import MlpWeights
from penstock_worker.model.interface import Batch
from penstock_worker.model.layers import capped, rotary_tables
from penstock_worker.model.quantization import HEAD
from penstock_worker.model.weights import DecoderWeights, LayerWeights
from penstock_worker.native import library as native
from penstock_worker.native.adapters import NativeAdapters
from penstock_worker.native.experts import NativeExperts
from penstock_worker.native.features import set_features
from penstock_worker.native.latents import latent_shape, set_expansion


class NativeDecoder:
    """A causal language model over paged KV, computed by the kernels in `kernels/`.

    Sums, norms and the residual stream are float32, whatever the weights are stored in.

    Args:
        path: the compiled library.
        config: the model's shape.
        weights: its tensors.
        pool: keeps its KV, in one of KV_TYPES.
        max_model_len: positions that the rotary tables cover.
        dtype: of weights that are not quantised, float32 or bfloat16.
        quantization: of the weights: none, int8 or int4.
        threads: that compute a step, this one among them.
        adapters: that the batch's sequences may name.
        features: that it leaves for a head, or, being a head, finds.
        sparse_blocks: that a token of an answer reads, in layers that the pool keeps bounds of; 0:
            all.

    Raises:
        MemoryError: the packed weights do not fit.
    """

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        weights: DecoderWeights,
        pool: KVPool,
        max_model_len: int,
        *,
        dtype: torch.dtype,
        quantization: str,
        threads: int,
        adapters: Sequence[Adapter] = (),
        features: Tap | HeadInputs | None = None,
        sparse_blocks: int = 0,
    ) -> None:
        self._library = native.load_library(path)
        self._vocab = config.vocab_size
        self._logit_cap = config.logit_cap
        self._pool = pool
        self._sparse = bool(sparse_blocks)
        self._plain = "bfloat16" if dtype is torch.bfloat16 else "float32"
        self._kept: list[Tensor] = []
        shape = native.Shape(
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_layers,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=pool.block_size,
            qk_norm=config.qk_norm,
            kv_type=native.KV_TYPES[pool.dtype],
            threads=threads,
            gelu=config.activation == "gelu_tanh",
            **latent_shape(config.latent),
            sparse_blocks=sparse_blocks,
            eps=config.rms_norm_eps,
            embedding_scale=config.embedding_scale,
            query_scale=config.query_scale,
            score_cap=config.score_cap,
        )
        self._handle = self._library.penstock_create(ctypes.byref(shape))
        if not self._handle:
            raise MemoryError("the native kernels could not allocate their buffers")
        weakref.finalize(self, self._library.penstock_destroy, self._handle)
        self._set_tables(weights)
        self._kind = self._kind_of(quantization)
        tables = {
            rope: [
                self._keep(table) for table in rotary_tables(rope, config.rotary_dim, max_model_len)
            ]
            for rope in {config.rope, config.sliding_rope}
        }
        for index, layer in enumerate(weights.layers()):
            window = config.windows[index]
            rope = config.sliding_rope if window else config.rope
            self._set_layer(index, layer, window, tables[rope])
            if config.latent:
                expansion = weights.expansion(index, config.latent)
                kind = self._kind_of("none")  # small, and not a linear layer as it is used
                set_expansion(self._library, self._handle, index, kind, expansion)
        if isinstance(features, Tap):  # plain: states have outliers that int8 would drown in
            self._kind = self._kind_of("none")
            self._set_linear(0, native.FUSION, features.fusion, None)
        if features is not None:
            set_features(self._library, self._handle, features, self._keep)
        self._kind = self._kind_of(HEAD[quantization])
        self._set_linear(0, native.HEAD, weights.head, None)
        self.adapters = NativeAdapters(self._library, self._handle, adapters, config)

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`."""
        logits = torch.empty(len(batch.output_rows), self._vocab)
        self._step(batch, logits)
        return capped(logits, self._logit_cap)  # which does not change what is likeliest

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        found: list[int] = self._step(batch, None).tolist()
        return found

    def _step(self, batch: Batch, logits: Tensor | None) -> NDArray[numpy.int32]:
        sequences = batch.sequences
        columns = max(len(sequence.blocks) for sequence in sequences)
        arrays = [
            numpy.array(values, dtype=numpy.int32)
            for values in (
                batch.tokens,
                batch.positions,
                [sequence.first_row for sequence in sequences],
                [sequence.count for sequence in sequences],
                [sequence.computed for sequence in sequences],
                _block_table(sequences, columns),
                batch.output_rows,
            )
        ]
        prompts = None
        if self._sparse:
            prompts = numpy.array([of.prompt for of in sequences], dtype=numpy.int32)
        adapters = self.adapters.numbers(batch)
        greedy = numpy.empty(len(batch.output_rows), dtype=numpy.int32)
        step = native.Step(
            len(batch.tokens),
            len(sequences),
            len(batch.output_rows),
            columns,
            *(values.ctypes.data for values in arrays[:-1]),
            None if adapters is None else adapters.ctypes.data,
            None if prompts is None else prompts.ctypes.data,
            arrays[-1].ctypes.data,
            greedy.ctypes.data,
            None if logits is None else logits.data_ptr(),
        )
        if self._library.penstock_step(self._handle, ctypes.byref(step)):
            raise MemoryError("the native kernels could not allocate a step's buffers")
        return greedy

    def _kind_of(self, quantization: str) -> int:
        return native.KINDS[self._plain if quantization == "none" else quantization]

    def _set_tables(self, weights: DecoderWeights) -> None:
        embeddings = weights.embeddings
        if embeddings.dtype is not torch.bfloat16:
            embeddings = embeddings.float()
        self._library.penstock_set_tables(
            self._handle,
            self._keep(embeddings),
            embeddings.dtype is torch.bfloat16,
            self._keep(weights.norm),
        )

    def _set_layer(
        self, index: int, layer: LayerWeights, window: int, tables: list[int | None]
    ) -> None:
        bounds = self._pool.bounds if self._sparse else {}
        described = native.Layer(
            input_norm=self._keep(layer.input_norm),
            mlp_norm=self._keep(layer.mlp_norm),
            query_key_norm=self._keep(layer.query_key_norm),
            attention_post_norm=self._keep(layer.attention_post_norm),
            mlp_post_norm=self._keep(layer.mlp_post_norm),
            query_norm=self._keep(layer.latent.query_norm if layer.latent else None),
            latent_norm=self._keep(layer.latent.norm if layer.latent else None),
            cos=tables[0],
            sin=tables[1],
            keys=self._pool.keys[index].data_ptr(),
            values=self._pool.values[index].data_ptr(),
            key_scales=self._pool.key_scales[index].data_ptr() if self._pool.key_scales else None,
            value_scales=self._pool.value_scales[index].data_ptr()
            if self._pool.value_scales
            else None,
            bounds=bounds[index].data_ptr() if index in bounds else None,
            window=window,
        )
        self._library.penstock_set_layer(self._handle, index, ctypes.byref(described))
        self._set_linear(index, native.QKV, layer.qkv, layer.qkv_bias)
        self._set_linear(index, native.OUTPUT, layer.output, layer.output_bias)
        if layer.latent and layer.latent.query_up is not None:
            self._set_linear(index, native.LATENT_QUERIES, layer.latent.query_up, None)
        if isinstance(layer.mlp, MlpWeights):
            self._set_linear(index, native.GATE, layer.mlp.gate, None)
            self._set_linear(index, native.UP, layer.mlp.up, None)
            self._set_linear(index, native.DOWN, layer.mlp.down, None)
        else:
            experts = NativeExperts(self._library, self._handle, self._kind, self._keep)
            experts.set(index, layer.mlp)

    def _set_linear(self, layer: int, which: int, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.float().contiguous()
        bias = None if bias is None else bias.float().contiguous()
        failed = self._library.penstock_set_linear(
            self._handle,
            layer,
            which,
            self._kind,
            *weight.shape,
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
        )
        if failed:
            raise MemoryError("the packed weights do not fit into memory")

    def _keep(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor's data, which lives as long as this decoder."""
        if tensor is None:
            return None
        self._kept.append(tensor.contiguous())
        return self._kept[-1].data_ptr()


def _block_table(sequences: list[interface.Sequence], columns: int) -> "array[int]":
    """Return the block tables as rows of equal length; what lies behind a row's end is not read."""
    table = array("i")
    padding = array("i", bytes(4 * columns))
    for sequence in sequences:
        table.extend(sequence.blocks)
        table.extend(padding[len(sequence.blocks) :])
    return table
