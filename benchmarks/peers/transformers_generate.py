"""transformers' own `generate`, all prompts of a round in one batch."""

import json
import sys

from protocol import Generate, serve


def load() -> Generate:
    """Load the model."""
    import torch
    from transformers import AutoModelForCausalLM

    asked = json.loads(sys.argv[1])
    dtype = getattr(torch, asked["dtype"])
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=dtype).eval()

    @torch.inference_mode()
    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        answers: list[list[int]] = found[:, ids.shape[1] :].tolist()
        return answers

    return generate


if __name__ == "__main__":
    serve(load)
