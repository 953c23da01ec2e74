"""Train the example model from nothing: `python examples/model/train.py --minutes 65`.

The schedule follows the clock, not a count of steps, so that a run on a slow or busy machine still
ends with its learning rate decayed; with `--steps` it follows the count and repeats exactly.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from batches import Conversations, TextWindows, encode_documents
from checkpoint import save_checkpoint
from corpus import load
from evaluate import answer, measure
from llama import Llama, LlamaConfig
from source import default_cache, find_sources
from vocabulary import BOS, token_id, train_tokenizer

HERE = Path(__file__).parent

TEXT_TOKENS = 4096  # plain text read in one step
LONG_FROM = 0.7  # from this part of the run on, rows are as long as the context
CHAT_ROWS = ((0.5, 16), (1.01, 40))  # conversations in one step, until that part of the run
WARM_UP, DECAY_FROM = 0.02, 0.4
MATRIX_RATE, OTHER_RATE = 4e-3, 3e-3
QUESTIONS = (
    "What is a generator?",
    "What is a list?",
    "What does os.path.join do?",
    "How do I sort a list?",
    "What is a decorator?",
    "Who are you?",
    "What is Kubernetes?",
    "explain the json module",
)


@dataclass
class Progress:
    """What the run has done so far; the model card quotes it."""

    steps: int = 0
    text_tokens: int = 0
    chat_tokens: int = 0
    minutes: float = 0.0


def rate(done: float) -> float:
    """Return the learning rate's factor: a short rise, a plateau, a straight line to zero."""
    if done < WARM_UP:
        return done / WARM_UP
    return min(1.0, max(0.0, 1 - (done - DECAY_FROM) / (1 - DECAY_FROM)))


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Give the layers' matrices to Muon, which needs fewer tokens, and the rest to AdamW."""
    named = list(model.named_parameters())
    matrices = [item for name, item in named if item.dim() == 2 and "embed" not in name]
    vectors = [item for name, item in named if item.dim() == 1]
    embeddings = [item for name, item in named if "embed" in name]
    return [
        torch.optim.Muon(
            matrices, lr=MATRIX_RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(
            [
                {"params": embeddings, "weight_decay": 0.05},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=OTHER_RATE,
            betas=(0.9, 0.95),
            fused=True,
        ),
    ]


def set_rate(used: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's learning rate from where it began."""
    for optimizer in used:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("first_lr", group["lr"]) * factor


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=65.0, help="length of the training run")
    parser.add_argument("--steps", type=int, default=0, help="count steps instead of minutes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", type=Path, help="folder with the documentation's sources")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--checkpoint-minutes", type=float, default=5.0)
    parser.add_argument("--no-autocast", action="store_true", help="for a CPU without bfloat16")
    return parser.parse_args()


def main() -> None:
    """Prepare the data, train, and leave a checkpoint with its measurements."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    corpus = load(find_sources(options.source, options.cache), HERE / "questions.yaml")
    held_out = corpus.held_out_text()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "heldout.txt").write_text(held_out, encoding="utf-8")
    config = LlamaConfig()
    tokenizer = train_tokenizer(corpus.train.values(), config.vocab_size)
    stream = encode_documents(tokenizer, list(corpus.train.values()))
    print(
        f"{len(stream)} tokens of text, {len(corpus.pairs)} pairs, "
        f"{len(held_out.encode())} bytes held out",
        flush=True,
    )

    model = Llama(config)
    used = optimizers(model)
    windows = TextWindows(stream, token_id(tokenizer, BOS), options.seed)
    chats = {
        rows: Conversations(tokenizer, corpus.pairs, options.seed + rows).batches(rows)
        for _, rows in CHAT_ROWS
    }
    progress = Progress()
    began = saved = time.monotonic()
    done = 0.0
    while done < 1.0:
        set_rate(used, rate(done))
        length = config.max_position_embeddings // (1 if done >= LONG_FROM else 2)
        text = windows.next(TEXT_TOKENS // length, length)
        chat = next(chats[next(rows for until, rows in CHAT_ROWS if done < until)])
        losses = []
        for inputs, targets in (text, chat):
            with torch.autocast("cpu", torch.bfloat16, enabled=not options.no_autocast):
                loss = model.loss(inputs, targets) / (targets >= 0).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in used:
            optimizer.step()
            optimizer.zero_grad()
        progress.steps += 1
        progress.text_tokens += text[0].numel()
        progress.chat_tokens += chat[0].numel()
        now = time.monotonic()
        progress.minutes = (now - began) / 60
        done = (
            progress.steps / options.steps
            if options.steps
            else (progress.minutes / options.minutes)
        )
        if progress.steps % 50 == 0:
            print(
                f"{done:6.1%} step {progress.steps} text {losses[0]:.3f} chat {losses[1]:.3f} "
                f"{progress.minutes:.1f} min",
                flush=True,
            )
        if now - saved > options.checkpoint_minutes * 60 and done < 1.0:
            saved = now
            save_checkpoint(options.output, model, tokenizer)
            print(measure(model, tokenizer, held_out), flush=True)
            for question in QUESTIONS[:3]:
                print(f"> {question} {answer(model, tokenizer, question)}", flush=True)

    save_checkpoint(options.output, model, tokenizer)
    report = {
        **asdict(progress),
        **asdict(measure(model, tokenizer, held_out)),
        "parameters": sum(item.numel() for item in model.parameters()),
        "stream_tokens": len(stream),
        "pairs": len(corpus.pairs),
    }
    (options.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    for question in QUESTIONS:
        print(f"> {question}\n{answer(model, tokenizer, question)}")


if __name__ == "__main__":
    main()
