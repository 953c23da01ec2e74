"""The contract between a decoder and an attention backend.

A step's tokens of all sequences lie flat, one after another. The metadata says which sequence owns
which rows and where its KV lives; it is built once per step and used by every layer.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sequence:
    """Rows of one sequence in a step."""

    first_row: int
    count: int
    """Tokens computed in this step, at least one."""
    computed: int
    """Tokens whose KV was there before."""
    blocks: list[int]
    """Block table, long enough for computed + count tokens; GONE where no layer looks."""
    prompt: int = 0
    """Tokens of the prompt: those behind them are of the answer, which may read less."""


class StepAttention(Protocol):
    """One step's attention, for every layer in turn."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store this step's keys and values, then return the attention output.

        Shapes: query [tokens, heads, head_dim]; key and value [tokens, kv_heads, head_dim]; result
        [tokens, heads × head_dim]. Each token sees its sequence's earlier tokens and itself.
        """


class AttentionBackend(Protocol):
    """Owns the KV pool; `begin` prepares one step."""

    def begin(self, sequences: list[Sequence]) -> StepAttention:
        """Return the attention of a step over these sequences."""
