"""CTranslate2's `Generator`, all prompts of a round in one batch."""

import json
import os
import sys
import tempfile

from protocol import Generate, serve


def load() -> Generate:
    """Convert the model and load it."""
    import ctranslate2

    asked = json.loads(sys.argv[1])
    kind = asked.get("quantization", asked["dtype"])
    folder = tempfile.mkdtemp(prefix="penstock-bench-ct2-")
    converter = ctranslate2.converters.TransformersConverter(asked["model"])
    converter.convert(folder, quantization=kind, force=True)
    generator = ctranslate2.Generator(
        folder, device="cpu", compute_type=kind, inter_threads=1, intra_threads=os.cpu_count() or 1
    )
    with open(f"{asked['model']}/config.json", encoding="utf-8") as file:
        count = json.load(file)["vocab_size"]
    names = [f"<{index}>" for index in range(count)]

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        found = generator.generate_batch(
            [[names[token] for token in prompt] for prompt in prompts],
            max_length=max_tokens,
            min_length=max_tokens,
            include_prompt_in_result=False,
            sampling_topk=1,
            beam_size=1,
            end_token=[],
        )
        return [answer.sequences_ids[0] for answer in found]

    return generate


if __name__ == "__main__":
    serve(load)
