"""Measure a checkpoint on text it never saw: `python examples/model/evaluate.py`.

Perplexity depends on the tokenizer, bits per byte do not: compare models by the latter.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from checkpoint import load_checkpoint
from llama import Llama
from tokenizers import Tokenizer
from vocabulary import ASSISTANT, BOS, END, USER, token_id

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Quality:
    """What was measured, and on how much."""

    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int


@torch.inference_mode()
def measure(model: Llama, tokenizer: Tokenizer, text: str, window: int = 1024) -> Quality:
    """Score every token of `text` once, in windows that each begin with the begin token.

    No window sees the one before it, which makes the number a little worse than a sliding window
    would, and simple enough for any engine to repeat.
    """
    bos = token_id(tokenizer, BOS)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    total = 0.0
    for start in range(0, len(ids), window - 1):
        part = ids[start : start + window - 1]
        inputs, targets = torch.tensor([[bos, *part[:-1]]]), torch.tensor([part])
        total += model.loss(inputs, targets).item()
    size = len(text.encode())
    return Quality(math.exp(total / len(ids)), total / math.log(2) / size, len(ids), size)


@torch.inference_mode()
def answer(model: Llama, tokenizer: Tokenizer, question: str, limit: int = 160) -> str:
    """Return the greedy answer; one that does not end by itself is marked."""
    end = token_id(tokenizer, END)
    prompt = f"{BOS}{USER}{question}{END}{ASSISTANT}"
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    start = len(ids)
    while len(ids) < start + limit:
        token = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
        if token == end:
            return tokenizer.decode(ids[start:])
        ids.append(token)
    return tokenizer.decode(ids[start:]) + " [not ended]"


def main() -> None:
    """Print perplexity and bits per byte as JSON, then answers to the questions asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE)
    parser.add_argument("--text", type=Path, default=HERE / "heldout.txt")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION")
    options = parser.parse_args()
    model, tokenizer = load_checkpoint(options.model)
    text = options.text.read_text(encoding="utf-8")
    print(json.dumps(asdict(measure(model, tokenizer, text, options.window)), indent=2))
    for question in options.ask:
        print(f"\n> {question}\n{answer(model, tokenizer, question)}")


if __name__ == "__main__":
    main()
