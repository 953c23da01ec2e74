"""Draw training batches: windows of plain text, and conversations padded to their own length.

The two are never mixed in a row: a conversation must see nothing but itself, as when it is served.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from questions import Pair, balance, converse
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import ASSISTANT, BOS, END, PAD, SYSTEM, USER, token_id

Batch = tuple[Tensor, Tensor]
Tokens = NDArray[np.int64]

# Conversations longer than this are dropped: answers are meant to be short.
LONGEST_CHAT = 320
# Drawn together and sorted by length, so that a batch's rows need little padding.
_POOL = 8


def encode_documents(tokenizer: Tokenizer, documents: Sequence[str]) -> Tokens:
    """Return all documents as one stream, each ended by the end-of-turn token."""
    end = token_id(tokenizer, END)
    encoded = tokenizer.encode_batch(list(documents), add_special_tokens=False)
    return np.concatenate([np.array([*item.ids, end], dtype=np.int64) for item in encoded])


class TextWindows:
    """Endless windows of a token stream; every epoch covers it once, cut at another offset."""

    def __init__(self, stream: Tokens, bos: int, seed: int) -> None:
        self._stream = stream
        self._bos = bos
        self._random = random.Random(seed)
        self._starts: list[int] = []

    def next(self, rows: int, length: int) -> Batch:
        """Return rows that start with the begin token, as a served completion does."""
        inputs = torch.full((rows, length), self._bos)
        targets = torch.empty((rows, length), dtype=torch.long)
        for row in range(rows):
            while not self._starts or self._starts[-1] + length > len(self._stream):
                if self._starts:
                    self._starts.pop()
                    continue
                phase = self._random.randrange(length)
                self._starts = list(range(phase, len(self._stream) - length + 1, length))
                self._random.shuffle(self._starts)
            start = self._starts.pop()
            window = torch.from_numpy(self._stream[start : start + length])
            targets[row] = window
            inputs[row, 1:] = window[:-1]
        return inputs, targets


class Conversations:
    """Endless batches of chat, drawn by weight; only what the assistant says is a target."""

    def __init__(self, tokenizer: Tokenizer, pairs: Sequence[Pair], seed: int) -> None:
        self._tokenizer = tokenizer
        self._pairs = pairs
        self._cumulative = balance(pairs)
        self._random = random.Random(seed)
        self._id = {
            token: token_id(tokenizer, token) for token in (BOS, END, PAD, SYSTEM, USER, ASSISTANT)
        }

    def batches(self, rows: int) -> Iterator[Batch]:
        """Yield batches of `rows` conversations."""
        while True:
            pool: list[tuple[list[int], list[int]]] = []
            while len(pool) < rows * _POOL:
                turns = converse(self._pairs, self._cumulative, self._random)
                example = self._encode(turns)
                if len(example[0]) <= LONGEST_CHAT:
                    pool.append(example)
            pool.sort(key=lambda example: len(example[0]))
            cuts = list(range(0, len(pool), rows))
            self._random.shuffle(cuts)
            for cut in cuts:
                yield self._pad(pool[cut : cut + rows])

    def _encode(self, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
        """Return inputs and targets of one conversation, exactly as the chat template writes it."""
        ids, taught = [self._id[BOS]], [False]
        for role, text in turns:
            content = self._tokenizer.encode(text, add_special_tokens=False).ids
            turn = [self._id[f"<|{role}|>"], *content, self._id[END]]
            ids += turn
            taught += [False] + [role == "assistant"] * (len(turn) - 1)
        targets = [token if teach else -1 for token, teach in zip(ids, taught, strict=True)]
        return ids[:-1], targets[1:]

    def _pad(self, examples: list[tuple[list[int], list[int]]]) -> Batch:
        longest = -(-max(len(ids) for ids, _ in examples) // 16) * 16
        inputs = torch.full((len(examples), longest), self._id[PAD])
        targets = torch.full((len(examples), longest), -1)
        for row, (ids, wanted) in enumerate(examples):
            inputs[row, : len(ids)] = torch.tensor(ids)
            targets[row, : len(wanted)] = torch.tensor(wanted)
        return inputs, targets
