"""Train a draft model that guesses what the example model says: `distil.py --minutes 10`.

The example model writes the text itself, and the draft learns its whole distribution over the next
token (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015): a draft is good if it
predicts its target, not the world. Nothing is read but the target's checkpoint.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every PyTorch reader knows
from checkpoint import load_checkpoint, save_checkpoint
from llama import Llama, LlamaConfig
from tokenizers import Tokenizer
from torch import Tensor
from train import optimizers, rate, set_rate
from vocabulary import ASSISTANT, BOS, END, PAD, USER, token_id

from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Sampling

HERE = Path(__file__).parent
SHAPE = LlamaConfig(
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
)
LENGTH, ROWS = 384, 8
TEMPERATURES = (0.8, 0.0, 0.0, 0.0)
"""Of what the target goes on with, after a beginning that is drawn at 1."""
BEGINNING = 64


def written(folder: Path, count: int, seed: int) -> list[list[int]]:
    """Return `count` texts that the target writes from nothing, in tokens."""
    begun = _generate(folder, [[0]] * count, [1.0] * count, BEGINNING, seed)
    warmth = [TEMPERATURES[number % len(TEMPERATURES)] for number in range(count)]
    return _generate(folder, begun, warmth, LENGTH, seed + 1)


def answered(
    folder: Path, tokenizer: Tokenizer, texts: list[list[int]], seed: int
) -> list[list[int]]:
    """Return what the target says to pieces of texts when they are put to it as questions."""
    draw = random.Random(seed)
    prompts = []
    for text in texts:
        start = draw.randrange(1, BEGINNING)
        asked = tokenizer.decode(text[start : start + draw.randrange(4, 16)])
        chat = f"{BOS}{USER}{asked}{END}{ASSISTANT}"
        prompts.append(tokenizer.encode(chat, add_special_tokens=False).ids)
    return _generate(folder, prompts, [0.0] * len(prompts), LENGTH // 2, seed)


def _generate(
    folder: Path, prompts: list[list[int]], warmth: list[float], length: int, seed: int
) -> list[list[int]]:
    """Go on with prompts until they have `length` tokens, or end."""
    threads = torch.get_num_threads()
    engine, _ = build_engine(EngineConfig(model=str(folder), max_num_seqs=64, threads=threads))
    texts = [list(prompt) for prompt in prompts]
    for number, (prompt, temperature) in enumerate(zip(prompts, warmth, strict=True)):
        sampling = Sampling(temperature=temperature, seed=seed, choice=number)
        engine.add(AddRequest(str(number), list(prompt), length - len(prompt), sampling))
    while engine.busy:
        for output in engine.step().outputs:
            texts[int(output.id)] += output.tokens
    return texts


def batch(texts: list[list[int]], draw: random.Random, pad: int) -> Tensor:
    """Return rows of whole texts, [rows, length], padded behind."""
    chosen = draw.sample(texts, ROWS)
    rows = torch.full((ROWS, max(map(len, chosen))), pad)
    for row, text in zip(rows, chosen, strict=True):
        row[: len(text)] = torch.tensor(text)
    return rows


def loss(draft: Llama, target: Llama, ids: Tensor, pad: int) -> Tensor:
    """Return the cross-entropy of the draft's predictions under the target's, per token."""
    real = ids != pad
    with torch.no_grad():
        wanted = target.logits(ids)[real].float().softmax(-1)
    return F.cross_entropy(draft.logits(ids)[real].float(), wanted)


@torch.no_grad()
def overlap(draft: Llama, target: Llama, ids: Tensor, pad: int) -> tuple[float, float]:
    """Return how often both think the same likeliest, and the mass that they share (1 - TV)."""
    real = ids != pad
    ours, theirs = draft.logits(ids)[real], target.logits(ids)[real]
    shared = torch.minimum(ours.softmax(-1), theirs.softmax(-1)).sum(-1).mean()
    return float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()), float(shared)


def main() -> None:
    """Let the target write, train the draft on it, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=HERE)
    parser.add_argument("--output", type=Path, default=HERE / "draft")
    parser.add_argument("--texts", type=int, default=384)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-autocast", action="store_true", help="for a CPU without bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    target, tokenizer = load_checkpoint(options.target)
    pad = token_id(tokenizer, PAD)
    texts = written(options.target, options.texts, options.seed)
    texts += answered(options.target, tokenizer, texts, options.seed + 2)
    print(f"{sum(map(len, texts))} tokens in {len(texts)} texts", flush=True)
    random.Random(options.seed).shuffle(texts)
    kept, texts = texts[:ROWS], texts[ROWS:]
    draft = Llama(SHAPE)
    used, draw = optimizers(draft), random.Random(options.seed)
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        set_rate(used, rate(done))
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.no_autocast):
            found = loss(draft, target, batch(texts, draw, pad), pad)
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        done = (time.monotonic() - began) / 60 / options.minutes
        if step % 50 == 0:
            same, shared = overlap(draft, target, batch(kept, random.Random(0), pad), pad)
            print(
                f"{done:6.1%} step {step} loss {found.item():.3f} same {same:.3f} "
                f"shared {shared:.3f}",
                flush=True,
            )
    save_checkpoint(options.output, draft, tokenizer)


if __name__ == "__main__":
    main()
