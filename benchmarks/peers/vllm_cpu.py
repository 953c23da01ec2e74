"""vLLM on a CPU through `LLM.generate`; its engine core is a process of its own, as by default."""

import json
import sys

from protocol import Generate, serve


def load() -> Generate:
    """Load the model with vLLM's defaults, but for what the comparison fixes."""
    from vllm import LLM, SamplingParams

    asked = json.loads(sys.argv[1])
    llm = LLM(
        model=asked["model"],
        dtype=asked["dtype"],
        max_model_len=asked["max_model_len"],
        skip_tokenizer_init=True,
        disable_log_stats=True,
    )

    def generate(prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        sampling = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = llm.generate(asked, sampling, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    return generate


if __name__ == "__main__":
    serve(load)
