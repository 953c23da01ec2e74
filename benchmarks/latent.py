"""What latent attention saves and costs: KV bytes per token, and decoding beside keys and values.

Two random models of two layers that differ in attention alone: DeepSeek-V2-Lite's, and plain
multi-head attention with as many heads, of the width that its values have. Steps that decode one
token per sequence alternate, over contexts whose KV is in memory but not in a cache.

    python benchmarks/latent.py [--threads 2] [--quick]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import line, tell
from safetensors.torch import save_file

from penstock_worker.attention.interface import Sequence
from penstock_worker.attention.pool import KVPool
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch, Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.native import build

VOCAB, HIDDEN, INNER, LAYERS, HEADS, BLOCK = 1024, 2048, 5632, 2, 16, 16
QUERY, ROTARY, VALUE, RANK = 192, 64, 128, 512
SIZES = ((1, 1024), (1, 4096), (8, 1024), (8, 4096))
"""Sequences and the tokens of each."""


def main() -> None:
    """Measure both models at every size, and print a line for each."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        latent, plain = (
            _Decoding(make(Path(folder) / name), options.threads)
            for name, make in (("latent", _write_latent), ("plain", _write_plain))
        )
        rounds = 3 if options.quick else 15
        for count, tokens in SIZES:
            batch = _batch(count, tokens)
            ours, theirs = _seconds(latent.model, plain.model, batch, rounds)
            tell(
                line(
                    "latent",
                    "decode_step_seconds",
                    f"{count} x {tokens}",
                    "ms",
                    1000 * ours,
                    peer="multi-head attention",
                    peer_value=1000 * theirs,
                    kv_bytes_per_token=latent.token_bytes,
                    peer_kv_bytes_per_token=plain.token_bytes,
                ),
                keep=not options.quick,
            )


class _Decoding:
    """A model in bfloat16, over a pool that is full of noise."""

    def __init__(self, folder: Path, threads: int) -> None:
        config, how = read_config(folder), _computation(threads)
        num_blocks = max(count * (tokens // BLOCK + 1) for count, tokens in SIZES)
        pool = KVPool.of(config, num_blocks, BLOCK, how.dtype)
        for stored in pool.stored:
            stored.normal_()
        self.model: Model = load_model(folder, config, pool, config.max_position, how)
        self.token_bytes = config.kv_bytes_per_token // 2


def _computation(threads: int) -> ExecutionConfig:
    kernels = build.find()
    if kernels is None:
        raise SystemExit("compile the kernels first: python -m penstock_worker.native.build")
    return ExecutionConfig(torch.bfloat16, kernels=kernels, threads=threads)


def _batch(count: int, tokens: int) -> Batch:
    blocks = tokens // BLOCK + 1
    sequences = [
        Sequence(index, 1, tokens, list(range(index * blocks, (index + 1) * blocks)))
        for index in range(count)
    ]
    return Batch([1] * count, [tokens] * count, sequences, list(range(count)))


def _seconds(ours: Model, theirs: Model, batch: Batch, rounds: int) -> tuple[float, float]:
    """Return the medians of both; a round to warm up is not counted."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for model, times in zip((ours, theirs), found, strict=True):
            began = time.perf_counter()
            for _ in range(5):
                model.greedy(batch)
            if number:
                times.append((time.perf_counter() - began) / 5)
    first, second = (statistics.median(times) for times in found)
    sys.stderr.write(f"{1000 * first:.2f} ms, beside {1000 * second:.2f} ms\n")
    return first, second


def _write_latent(folder: Path) -> Path:
    attention = {
        "q_proj": (HEADS * QUERY, HIDDEN),
        "kv_a_proj_with_mqa": (RANK + ROTARY, HIDDEN),
        "kv_a_layernorm": (RANK,),
        "kv_b_proj": (HEADS * (QUERY - ROTARY + VALUE), RANK),
        "o_proj": (HIDDEN, HEADS * VALUE),
    }
    config = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "q_lora_rank": None,
        "kv_lora_rank": RANK,
        "qk_nope_head_dim": QUERY - ROTARY,
        "qk_rope_head_dim": ROTARY,
        "v_head_dim": VALUE,
        "n_routed_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 1,
        "first_k_dense_replace": LAYERS,
    }
    return _write(folder, attention, config)


def _write_plain(folder: Path) -> Path:
    square = (HEADS * VALUE, HIDDEN)
    attention: dict[str, tuple[int, ...]] = {f"{name}_proj": square for name in "qkv"}
    attention["o_proj"] = square[::-1]
    return _write(folder, attention, {"architectures": ["LlamaForCausalLM"], "head_dim": VALUE})


def _write(folder: Path, attention: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Path:
    folder.mkdir()
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (VOCAB, HIDDEN),
        "model.norm": (HIDDEN,),
        "lm_head": (VOCAB, HIDDEN),
    }
    layer = {f"self_attn.{name}": shape for name, shape in attention.items()} | {
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }
    for index in range(LAYERS):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    tensors = {f"{name}.weight": torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    save_file(
        {name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    common = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 8192,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(common | config), encoding="utf-8")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--threads", type=int, default=2, help="that compute (default: 2)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing kept")
    return parser


if __name__ == "__main__":
    main()
