"""What answers gain by reading the blocks of KV that can matter instead of all, by context.

A random model of the shape of Qwen3-0.6B with a small vocabulary, in bfloat16, over a pool of KV
that is full of noise. Steps with one token per sequence alternate: the token is one of an answer,
which reads what `--sparse-attention-tokens` says, or one of a prompt, which reads everything, as it
does without the flag. What it costs in quality is in `quality.py`.

    python benchmarks/sparse_attention.py [--threads 2] [--tokens 1024] [--quick]
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from peer import CACHE
from report import line, tell
from safetensors.torch import save_file

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native import build
from penstock_worker.sparsity import Sparsity, sparse_layers

VOCAB, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 1024, 1024, 3072, 28, 16, 8, 128
BLOCK = 16
SIZES = ((1, 2048), (1, 8192), (4, 8192), (1, 32768))
"""Sequences and the tokens of each."""


def main() -> None:
    """Measure every context, and print a line for each."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        model = _load(options)
        for count, context in SIZES:
            answer, prompt = (_batch(count, context, known) for known in (1, context))
            ours, theirs = _seconds(model, answer, prompt, 3 if options.quick else 7)
            tell(
                line(
                    "sparse_attention",
                    "decode_tokens_per_second",
                    f"{count} x {context}, {options.tokens} tokens read",
                    "tokens/s",
                    count / statistics.median(ours),
                    peer="all tokens read",
                    peer_value=count / statistics.median(theirs),
                    median_ratio=round(
                        statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 3
                    ),
                    threads=options.threads,
                    load=round(os.getloadavg()[0], 1),
                ),
                keep=not options.quick,
            )


def _load(options: argparse.Namespace) -> Model:
    kernels = build.find()
    if kernels is None:
        sys.exit("compile the kernels first: python -m penstock_worker.native.build")
    folder = _make(CACHE / "qwen3-0.6b-shape")
    shape = read_config(folder)
    sparsity = Sparsity(-(-options.tokens // BLOCK), BLOCK, sparse_layers(shape))
    how = ExecutionConfig(
        torch.bfloat16, kernels=kernels, threads=options.threads, sparsity=sparsity
    )
    pool = KVPool.of(shape, _blocks(), BLOCK, how.kv_dtype, bounded=sparsity.layers)
    noise = torch.randn(1 << 20).bfloat16()
    for stored in pool.stored:
        flat = stored.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)])
    return load_model(folder, shape, pool, shape.max_position, how)


def _blocks() -> int:
    return max(count * context for count, context in SIZES) // BLOCK


def _batch(count: int, context: int, prompt: int) -> Batch:
    """Return a step that computes the last token of contexts; their blocks lie anywhere."""
    blocks = torch.randperm(_blocks(), generator=torch.Generator().manual_seed(1)).tolist()
    each = context // BLOCK
    sequences = [
        Sequence(row, 1, context - 1, blocks[row * each : (row + 1) * each], prompt)
        for row in range(count)
    ]
    return Batch([1] * count, [context - 1] * count, sequences, list(range(count)))


def _seconds(
    model: Model, ours: Batch, theirs: Batch, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of a step, by round; a round to warm up is not counted."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for batch, times in zip((ours, theirs), found, strict=True):
            began = time.perf_counter()
            for _ in range(3):
                model.greedy(batch)
            if number:
                times.append((time.perf_counter() - began) / 3)
    return found


def _make(folder: Path) -> Path:
    """Write the checkpoint into `folder`, unless it is there; return the folder."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    width, kv_width = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (VOCAB, HIDDEN),
        "model.norm": (HIDDEN,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.q_proj": (width, HIDDEN),
        "self_attn.k_proj": (kv_width, HIDDEN),
        "self_attn.v_proj": (kv_width, HIDDEN),
        "self_attn.o_proj": (HIDDEN, width),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    for index in range(LAYERS):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    torch.manual_seed(1)
    tensors = {
        f"{name}.weight": torch.randn(shape).bfloat16() * 0.02 for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": max(context for _, context in SIZES),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="that compute (default: 2)")
    parser.add_argument("--tokens", type=int, default=1024, help="read (default: 1024)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing kept")
    return parser


if __name__ == "__main__":
    main()
