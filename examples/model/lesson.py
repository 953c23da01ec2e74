"""What a target teaches to whatever guesses for it: it writes the texts, and they are trained on.

Nothing is read but the target's checkpoint.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from checkpoint import load_checkpoint
from llama import Llama
from tokenizers import Tokenizer
from torch import Tensor, nn
from train import optimizers, rate, set_rate
from vocabulary import ASSISTANT, BOS, END, PAD, USER, token_id

from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Sampling

HERE = Path(__file__).parent
LENGTH, ROWS = 384, 8
TEMPERATURES = (0.8, 0.0, 0.0, 0.0)
"""Of what the target goes on with, after a beginning that is drawn at 1."""
BEGINNING = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every such training has: who writes, and how the machine computes."""
    parser.add_argument("--target", type=Path, default=HERE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-autocast", action="store_true", help="for a CPU without bfloat16")


@dataclass
class Lesson:
    """The target, and what it has written, in tokens."""

    target: Llama
    tokenizer: Tokenizer
    pad: int
    texts: list[list[int]]
    """To train on."""
    kept: list[list[int]]
    """Kept from training, to measure with."""
    draw: random.Random

    def batch(self) -> Tensor:
        """Return rows to train on, [rows, length], padded behind; drawn anew by each call."""
        return _batch(self.texts, self.draw, self.pad)

    def measured(self) -> Tensor:
        """Return the rows to measure with, [rows, length], padded behind; always the same."""
        return _batch(self.kept, random.Random(0), self.pad)


def lesson(options: argparse.Namespace) -> Lesson:
    """Let the target write what is trained on."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    target, tokenizer = load_checkpoint(options.target)
    texts = _written(options.target, options.texts, options.seed)
    texts += _answered(options.target, tokenizer, texts, options.seed + 2)
    print(f"{sum(map(len, texts))} tokens in {len(texts)} texts", flush=True)
    random.Random(options.seed).shuffle(texts)
    pad, draw = token_id(tokenizer, PAD), random.Random(options.seed)
    return Lesson(target, tokenizer, pad, texts[ROWS:], texts[:ROWS], draw)


def train(
    model: nn.Module,
    loss: Callable[[], Tensor],
    measure: Callable[[], str],
    options: argparse.Namespace,
) -> None:
    """Train for as long as the options say.

    Args:
        model: that learns.
        loss: returns that of the next batch.
        measure: says in words how good it is by now.
        options: of the command line.
    """
    used = optimizers(model)
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        set_rate(used, rate(done))
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.no_autocast):
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        done = (time.monotonic() - began) / 60 / options.minutes
        if step % 50 == 0:
            with torch.no_grad():
                words = measure()
            print(f"{done:6.1%} step {step} loss {found.item():.3f} {words}", flush=True)


def _written(folder: Path, count: int, seed: int) -> list[list[int]]:
    """Return `count` texts that the target writes from nothing, in tokens."""
    begun = _generate(folder, [[0]] * count, [1.0] * count, BEGINNING, seed)
    warmth = [TEMPERATURES[number % len(TEMPERATURES)] for number in range(count)]
    return _generate(folder, begun, warmth, LENGTH, seed + 1)


def _answered(
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


def _batch(texts: list[list[int]], draw: random.Random, pad: int) -> Tensor:
    """Return rows of whole texts, [rows, length], padded behind."""
    chosen = draw.sample(texts, ROWS)
    rows = torch.full((ROWS, max(map(len, chosen))), pad)
    for row, text in zip(rows, chosen, strict=True):
        row[: len(text)] = torch.tensor(text)
    return rows
