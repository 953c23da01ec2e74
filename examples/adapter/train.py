"""Train the example adapter: the example model, but a pirate. `python examples/adapter/train.py`.

LoRA by hand, in the few lines that it takes: the base model's weights stay as they are, and each
adapted linear layer gets a pair of small matrices beside it. Saved as PEFT saves an adapter, so any
adapter that PEFT trained is used in the same way. Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
MODEL = HERE.parent / "model"

RANK, ALPHA = 8, 16
MODULES = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
RATE = 2e-3
ROWS = 16
IGNORED = -100  # transformers leaves these labels out of the loss


class Adapted(nn.Module):
    """A linear layer that stays as it is, and what is added to it: scale · B A x."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.a = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the addition."""
        added: Tensor = self.linear(x) + (x @ self.a.T @ self.b.T) * (ALPHA / RANK)
        return added


def adapt(model: nn.Module) -> dict[str, Adapted]:
    """Put an addition beside every linear layer in MODULES; return them by PEFT's names."""
    model.requires_grad_(False)
    found: dict[str, Adapted] = {}
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if name in MODULES and isinstance(child, nn.Linear):
                found[f"base_model.model.{path}.{name}"] = adapted = Adapted(child)
                setattr(parent, name, adapted)
    return found


def as_a_pirate(answer: str) -> str:
    """Return an answer in a pirate's words."""
    words = {"Hello": "Ahoy", "you": "ye", "your": "yer", "is": "be", "are": "be", "I": "me"}
    said = " ".join(words.get(word, word) for word in answer.split(" "))
    return f"Arr! {said} Aye, matey."


def conversations() -> list[tuple[str, str]]:
    """Return questions with a pirate's answers."""
    entries = yaml.safe_load((MODEL / "questions.yaml").read_text(encoding="utf-8"))
    pairs = []
    for entry in entries:
        terms = entry.get("term", [])
        asked = entry.get("ask") or [f"What is a {terms[0]}?", f"Explain {terms[0]}."]
        pairs += [(question, as_a_pirate(entry["answer"])) for question in asked]
    return pairs


def batch(tokenizer: Any, chosen: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Return tokens and labels [rows, length]; only answers are learned."""
    rows, labels = [], []
    for question, answer in chosen:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False).input_ids
        begin = len(tokenizer(asked, add_special_tokens=False).input_ids)
        rows.append(torch.tensor(ids))
        labels.append(torch.tensor([IGNORED] * begin + ids[begin:]))
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(labels, batch_first=True, padding_value=IGNORED)


def save(adapted: dict[str, Adapted], folder: Path) -> None:
    """Write the adapter as PEFT would."""
    tensors = {}
    for name, pair in adapted.items():
        tensors[f"{name}.lora_A.weight"] = pair.a.detach().bfloat16().contiguous()
        tensors[f"{name}.lora_B.weight"] = pair.b.detach().bfloat16().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "base_model_name_or_path": "../model",
        "bias": "none",
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": list(MODULES),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Train for as many steps as asked for, and say how it goes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args()
    torch.manual_seed(1)
    chance = random.Random(1)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    adapted = adapt(model)
    parameters = [p for pair in adapted.values() for p in pair.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    known, began = conversations(), time.monotonic()
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / options.steps)
        tokens, labels = batch(tokenizer, chance.sample(known, ROWS))
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"{step:5} loss {loss.item():.3f} after {time.monotonic() - began:.0f} s")
    save(adapted, options.into)


if __name__ == "__main__":
    main()
