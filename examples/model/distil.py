"""Train a draft model that guesses what the example model says: `distil.py --minutes 10`.

The example model writes the text itself, and the draft learns its whole distribution over the next
token (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015): a draft is good if it
predicts its target, not the world. Nothing is read but the target's checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader knows
from checkpoint import save_checkpoint
from lesson import HERE, add_arguments, lesson, train
from llama import Llama, LlamaConfig
from torch import Tensor

SHAPE = LlamaConfig(
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
)


def loss(draft: Llama, target: Llama, ids: Tensor, pad: int) -> Tensor:
    """Return the cross-entropy of the draft's predictions under the target's, per token."""
    real = ids != pad
    with torch.no_grad():
        wanted = target.logits(ids)[real].float().softmax(-1)
    return F.cross_entropy(draft.logits(ids)[real].float(), wanted)


def overlap(draft: Llama, target: Llama, ids: Tensor, pad: int) -> tuple[float, float]:
    """Return how often both think the same likeliest, and the mass that they share (1 - TV)."""
    real = ids != pad
    ours, theirs = draft.logits(ids)[real], target.logits(ids)[real]
    shared = torch.minimum(ours.softmax(-1), theirs.softmax(-1)).sum(-1).mean()
    return float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()), float(shared)


def main() -> None:
    """Let the target write, train the draft on it, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--output", type=Path, default=HERE / "draft")
    parser.add_argument("--texts", type=int, default=384)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    taught = lesson(options)
    draft, target, pad = Llama(SHAPE), taught.target, taught.pad

    def measure() -> str:
        same, shared = overlap(draft, target, taught.measured(), pad)
        return f"same {same:.3f} shared {shared:.3f}"

    train(draft, lambda: loss(draft, target, taught.batch(), pad), measure, options)
    save_checkpoint(options.output, draft, taught.tokenizer)


if __name__ == "__main__":
    main()
