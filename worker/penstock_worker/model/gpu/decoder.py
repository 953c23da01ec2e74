"""The decoder as a GPU runs it.

What Python knows of a step goes over in one copy. Steps of decoding alone, of which there are most,
are padded to a size of the ladder and replayed from a graph over memory that stays where it is;
steps with prompts are launched as they come. The head and sampling follow outside of the graph, for
the rows that want them.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from penstock_worker.attention.gpu.backend import TritonAttention, TritonStep
from penstock_worker.attention.gpu.staging import stage
from penstock_worker.attention.gpu.tiles import Numbers, Tiles
from penstock_worker.model.decoder import TorchDecoder
from penstock_worker.model.gpu.graphs import Record, Work, unrecorded
from penstock_worker.model.gpu.ladder import padded_size
from penstock_worker.model.interface import Batch


class GpuDecoder:
    """A causal language model over paged KV, on a device.

    Args:
        decoder: computes; its weights are on the device.
        attention: over a pool on the device.
        max_model_len: longest context in tokens.
        sizes: to which steps of decoding are padded, ascending.
        record: turns a padded step into a graph.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: TorchDecoder,
        attention: TritonAttention,
        *,
        max_model_len: int,
        sizes: tuple[int, ...],
        record: Record = unrecorded,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._device = attention.pool.device
        self._sizes = sizes
        blocks = -(-max_model_len // attention.pool.block_size)
        self._memory = torch.zeros(
            _numbers_of(sizes[-1], blocks), dtype=torch.int32, device=self._device
        )
        # The largest first: the smaller ones then fit into the memory that it has taken.
        self._steps = {size: self._record(size, record) for size in reversed(sizes)}

    def logits(self, batch: Batch) -> Tensor:
        """See `Model.logits`."""
        return self._decoder.predicted(self._outputs(batch))

    def greedy(self, batch: Batch) -> list[int]:
        """See `Model.greedy`."""
        hidden = self._outputs(batch)
        if not batch.output_rows:
            self._finish()
            return []
        return self._decoder.likeliest(hidden)

    def _outputs(self, batch: Batch) -> Tensor:
        """Return the last hidden states of the rows whose next token is wanted."""
        tiles = self._attention.cut(batch.sequences)
        size = padded_size(len(batch.tokens), self._sizes) if tiles.only_decodes else None
        if size is None:
            return self._launch(batch, tiles)
        stage(_padded(batch, tiles, size), self._device, self._memory)
        hidden = self._steps[size]()
        if len(batch.output_rows) == len(batch.tokens):
            return hidden[: len(batch.tokens)]
        (rows,) = stage([_numbers(batch.output_rows)], self._device)
        return hidden.index_select(0, rows)

    def _launch(self, batch: Batch, tiles: Tiles) -> Tensor:
        numbers = [_numbers(n) for n in (batch.tokens, batch.positions, batch.output_rows)]
        tokens, positions, rows, *staged = stage([*numbers, *tiles.arrays], self._device)
        splits = -(-tiles.longest // self._attention.split)
        attention = TritonStep(self._attention, staged, splits)
        return self._decoder.hidden(tokens, positions, attention).index_select(0, rows)

    def _record(self, size: int, record: Record) -> Work:
        """Return what computes a step of decoding of this size, with the numbers in memory."""
        nothing = Batch(tokens=[], positions=[], sequences=[], output_rows=[])
        arrays = _padded(nothing, self._attention.cut([]), size)
        tokens, positions, *staged = stage(arrays, self._device, self._memory)
        staged[-1] = self._memory[staged[-1].storage_offset() :]
        attention = TritonStep(self._attention, staged, self._attention.most_splits)
        return record(partial(self._decoder.hidden, tokens, positions, attention))

    def _finish(self) -> None:
        """Wait for the device: a step that nobody reads would seem to take no time."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _padded(batch: Batch, tiles: Tiles, size: int) -> list[Numbers]:
    """Return a step's numbers, padded; arrays but the last have the same shape for each size."""
    more = (0, size - len(batch.tokens))
    tokens, positions = (np.pad(_numbers(n), more) for n in (batch.tokens, batch.positions))
    return [tokens, positions, *tiles.padded(size).arrays]


def _numbers(values: list[int]) -> Numbers:
    return np.array(values, np.int32)


def _numbers_of(size: int, blocks: int) -> int:
    """Return how many numbers a padded step has at most: of each row 3, a tile, and its blocks."""
    return size * (3 + 4 + blocks) + 16 * 4
