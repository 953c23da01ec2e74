"""Output tokens per second of the engine on a GPU, once its tokens are known to be right.

First the engine in float32 on the GPU has to give the greedy tokens of the reference on the CPU,
for prompts of many lengths at once. Then a random Llama of 1.2 billion parameters (the shape of
Llama 3.2 1B; or --model FOLDER) in bfloat16 is timed, 512 tokens in and 128 out, beside
transformers' continuous batching, and beside the bound that reading weights and KV sets at the
bandwidth measured here.

    python benchmarks/gpu.py [--concurrency 1,8,64,256] [--peer transformers|none] [--quick]

Without a GPU it says so and measures nothing.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from model import make_model
from peer import CACHE, Engine, python_of
from report import line, tell

from penstock_worker.gpu_memory import parameters
from penstock_worker.model.config import ModelConfig, read_config

PROMPT, OUTPUT = 512, 128
LENGTHS = (
    1,
    2,
    15,
    16,
    17,
    40,
    64,
    100,
    129,
    200,
    257,
    300,
    350,
    400,
    420,
    440,
    450,
    460,
    470,
    480,
)
CHECKED = 32
"""Tokens compared."""
DIFFERENT = 1
"""Prompts whose tokens may part: of random weights' logits, two are nearly equal now and then."""
KV_BYTES = 16 << 30


def main() -> None:
    """Check, then measure every concurrency and print a line for each."""
    options = _parser().parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            f"benchmarks/gpu.py: there is no GPU that PyTorch {torch.__version__} can use; "
            "it needs a CUDA build, a driver, and compute capability 8.0 or newer"
        )
    _check()
    bandwidth = _bandwidth()
    model = options.model or _random_model(CACHE / "llama-1b")
    asked = {"model": str(model), "dtype": "bfloat16", "device": "cuda"}
    ours = {"max_model_len": 1024, "kv_cache_bytes": KV_BYTES, "max_num_seqs": 256}
    engines = {"penstock": Engine(sys.executable, "penstock.py", {**asked, **ours})}
    if options.peer != "none":
        script = "transformers_generate_batch.py"
        engines[options.peer] = Engine(python_of("transformers"), script, asked)
    for concurrency in options.concurrency:
        rates = _rounds(engines, concurrency, 1 if options.quick else 3)
        tell(
            _figure(read_config(model), concurrency, bandwidth, rates, options.peer),
            keep=not options.quick,
        )
    for engine in engines.values():
        engine.close()


def _check() -> None:
    """Compare tokens with the reference's, and end here where they differ."""
    asked = {"model": str(make_model(CACHE / "llama-57m")), "dtype": "float32"}
    limits = {"max_model_len": 1024, "kv_cache_bytes": 1 << 30, "max_num_batched_tokens": 512}
    prompts = [_prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    found = []
    for device, kernels in (("cpu", "torch"), ("cuda", "triton")):
        settings = {**asked, **limits, "device": device, "kernels": kernels}
        engine = Engine(sys.executable, "penstock.py", settings)
        found.append(engine.generate(prompts, CHECKED)["tokens"])
        engine.close()
    wrong = [len(p) for p, a, b in zip(prompts, *found, strict=True) if a != b]
    sys.stderr.write(f"{len(prompts) - len(wrong)} of {len(prompts)} prompts: equal tokens\n")
    if len(wrong) > DIFFERENT:
        sys.exit(f"benchmarks/gpu.py: the tokens of prompts with {wrong} tokens differ")


def _bandwidth() -> float:
    """Return bytes per second of reading memory in order, the best of a few tries."""
    memory = torch.ones(1 << 30, dtype=torch.bfloat16, device="cuda")
    best = 0.0
    for _ in range(10):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        memory.sum()
        ended.record()
        torch.cuda.synchronize()
        best = max(best, memory.nbytes / (began.elapsed_time(ended) / 1000))
    del memory
    torch.cuda.empty_cache()
    return best


def _rounds(engines: dict[str, Engine], concurrency: int, rounds: int) -> dict[str, list[float]]:
    """Return each engine's tokens per second, round by round; a round to warm up is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        prompts = [_prompt(PROMPT, 1000 * number + index) for index in range(concurrency)]
        for name, engine in engines.items():
            time.sleep(0.2)
            answer = engine.generate(prompts, OUTPUT)
            if number:
                tokens = sum(map(len, answer["tokens"]))
                rates[name].append(tokens / answer["seconds"])
    return rates


def _figure(
    shape: ModelConfig,
    concurrency: int,
    bandwidth: float,
    rates: dict[str, list[float]],
    peer: str,
) -> dict[str, Any]:
    there = None if peer == "none" else peer
    return line(
        "gpu",
        "output_tokens_per_second",
        str(concurrency),
        "tokens/s",
        statistics.median(rates["penstock"]),
        peer=there,
        peer_value=statistics.median(rates[there]) if there else None,
        bound=round(_bound(shape, concurrency, bandwidth), 1),
        memory_gb_per_s=round(bandwidth / 1e9, 1),
        gpu=torch.cuda.get_device_name(),
    )


def _bound(shape: ModelConfig, concurrency: int, bandwidth: float) -> float:
    """Return tokens/s if each step took only as long as weights and KV take to be read once.

    The embeddings are not read but for a row, so a tied table counts once and another one not.
    """
    tables = 0 if shape.tie_word_embeddings else shape.vocab_size * shape.hidden_size
    weights = 2 * (parameters(shape) - tables)
    context = shape.kv_bytes_per_token // 2 * (PROMPT + OUTPUT / 2)
    return concurrency * bandwidth / (weights + concurrency * context)


def _random_model(folder: Path) -> Path:
    """Write a random Llama in bfloat16 into `folder`, unless it is there; return the folder."""
    if not (folder / "config.json").exists():
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            eos_token_id=None,
            bos_token_id=None,
        )
        with torch.device("cuda"):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
    return folder


def _prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 32000, (length,), generator=generator).tolist()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--concurrency", type=lambda text: [*map(int, text.split(","))], default=[1, 8, 64, 256]
    )
    parser.add_argument("--peer", choices=["transformers", "none"], default="transformers")
    parser.add_argument("--model", type=Path, help="a checkpoint of your own, in its place")
    parser.add_argument("--quick", action="store_true", help="a rough answer, which is not kept")
    return parser


if __name__ == "__main__":
    main()
