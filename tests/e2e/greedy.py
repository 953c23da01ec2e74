"""What `transformers` says for the example model, to hold real engines against: greedy, float32."""

import copy
import json
from pathlib import Path
from typing import Any, Final

import torch
from openai import OpenAI
from safetensors.torch import load_file
from tests.e2e.conftest import ROOT
from transformers import AutoTokenizer, LlamaForCausalLM

MODEL: Final = ROOT / "examples" / "model"
TOKENS: Final = 48
"""Of an answer."""
PROMPTS: Final = (
    "What is a list?",
    "A list is a sequence of values. A list is",
    "def add(a, b):",
)


def base() -> Any:
    """Return the example model."""
    return LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def merged(model: Any, adapter: Path) -> Any:
    """Return a model with a LoRA adapter merged in: W + alpha / r · B A."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, linear in found.named_modules():
            key = f"base_model.model.{name}.lora_{{}}.weight"
            if key.format("A") in tensors:
                a, b = (tensors[key.format(which)].float() for which in "AB")
                linear.weight += config["lora_alpha"] / config["r"] * (b @ a)
    return found


def answers(model: Any) -> list[str]:
    """Return what a model says to each of `PROMPTS`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model waits for its threads more than it computes
    try:
        return [_answer(model, prompt) for prompt in PROMPTS]
    finally:
        torch.set_num_threads(before)


def says(client: OpenAI, model: str, prompt: str) -> str:
    """Return what is served under a name to a prompt, as a stream."""
    stream = client.completions.create(
        model=model,
        prompt=prompt,
        temperature=0,
        max_tokens=TOKENS,
        stream=True,
        extra_body={"min_tokens": TOKENS},
    )
    return "".join(chunk.choices[0].text for chunk in stream)


def _answer(model: Any, prompt: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    said = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
    )
    return str(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
