"""transformers' continuous batching: paged KV, requests join and leave a running batch."""

import json
import sys

from protocol import Generate, serve


def load() -> Generate:
    """Load the model onto the device that was asked for."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    asked = json.loads(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(
        asked["model"], dtype=getattr(torch, asked["dtype"]), attn_implementation="sdpa"
    )
    model = model.to(asked["device"]).eval()

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        # No token of the vocabulary ends a sequence.
        wanted = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        found = model.generate_batch(
            prompts, generation_config=wanted, persistent_manager=True, progress_bar=False
        )
        # Requests are numbered in the order in which they were sent.
        ordered = sorted(found.values(), key=lambda one: int(one.request_id.rpartition("_")[2]))
        return [one.generated_tokens for one in ordered]

    return generate


if __name__ == "__main__":
    serve(load)
