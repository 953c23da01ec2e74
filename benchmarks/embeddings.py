"""Texts per second that become vectors, beside other engines, on the same cores.

All run a random BERT of 33M parameters, shaped as bge-small is (12 layers, 384 wide), from texts to
normalised vectors, tokenising included, without HTTP. Rounds alternate, so that whatever else the
machine does hits all, and who is not measured stands still. Vectors of all are compared. Peers are
installed, once, each into an environment of its own under the cache folder.

    python benchmarks/embeddings.py [--peers sentence-transformers,fastembed] [--quick]
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from peer import CACHE, KNOWN, Engine, start_peer
from report import line, tell
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

PEERS = ("sentence-transformers", "fastembed")
VOCAB, WIDTH, INNER, LAYERS, HEADS, LONGEST = 30_522, 384, 1536, 12, 12, 512
MARKS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
NEAR = 0.999
"""Cosine above which two vectors are the same."""


def main() -> None:
    """Measure every workload and print a line for each and each peer."""
    options = _parser().parse_args()
    threads = options.threads or len(os.sched_getaffinity(0))
    asked = {
        "model": str(make_encoder(CACHE / "bert-33m")),
        "dtype": options.dtype,
        "threads": threads,
        "max_tokens": LONGEST,
        "width": WIDTH,
    }
    engines = {"penstock": Engine(sys.executable, "penstock_embed.py", asked)}
    engines |= {name: start_peer(name, asked) for name in options.peers}
    for workload in ("question", "questions", "documents"):
        rates = _rounds(engines, workload, 2 if options.quick else 7)
        for name, values in rates.items():
            listed = ", ".join(f"{value:.1f}" for value in values)
            sys.stderr.write(f"{workload}, {name}: {listed} texts/s\n")
        for peer in options.peers or [None]:
            tell(_figure(options, workload, rates, peer, threads), keep=not options.quick)
    for engine in engines.values():
        engine.close()


def texts_of(workload: str, seed: int) -> list[str]:
    """Return texts as people send them: one short one, 64 short ones, 64 of a page each.

    Documents have some 130 tokens on average, some ten times as many as others.
    """
    generator = random.Random(f"{workload}-{seed}")
    if workload == "documents":
        sizes = [int(generator.lognormvariate(4.6, 0.7)) for _ in range(64)]
    else:
        sizes = [generator.randrange(6, 20) for _ in range(64 if workload == "questions" else 1)]
    return [
        " ".join(f"w{generator.randrange(1000, VOCAB)}" for _ in range(max(4, size)))
        for size in sizes
    ]


def _rounds(engines: dict[str, Engine], workload: str, rounds: int) -> dict[str, list[float]]:
    """Return each engine's texts per second, round by round; one to warm up is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        texts = texts_of(workload, number)
        ours: list[list[float]] = []
        for name, engine in engines.items():
            answer = engine.ask({"texts": texts})
            ours = ours or answer["vectors"]
            if min(map(_cosine, ours, answer["vectors"])) < NEAR:
                raise SystemExit(f"{name} has other vectors")
            if number:
                rates[name].append(len(texts) / answer["seconds"])
    return rates


def _cosine(one: list[float], other: list[float]) -> float:
    return (
        sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
    )


def _figure(
    options: argparse.Namespace,
    workload: str,
    rates: dict[str, list[float]],
    peer: str | None,
    threads: int,
) -> dict[str, Any]:
    return line(
        "embeddings",
        "texts_per_second",
        workload,
        "texts/s",
        statistics.median(rates["penstock"]),
        peer=peer,
        peer_value=statistics.median(rates[peer]) if peer else None,
        weights=options.dtype,
        threads=threads,
    )


def make_encoder(folder: Path) -> Path:
    """Write a checkpoint with sentence-transformers' files, unless it is there; return it."""
    if (folder / "config.json").exists():
        return folder
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    save_file(_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer().save(str(folder / "tokenizer.json"))
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (kind, path) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": WIDTH,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
        "sentence_bert_config.json": {"max_seq_length": LONGEST, "do_lower_case": False},
        "special_tokens_map.json": names,
        "tokenizer_config.json": {
            **names,
            "model_max_length": LONGEST,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": LONGEST,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": MARKS["[PAD]"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    return folder


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
        return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}

    def norm(name: str) -> dict[str, torch.Tensor]:
        at = f"{name}.LayerNorm"
        return {f"{at}.weight": torch.ones(WIDTH), f"{at}.bias": torch.zeros(WIDTH)}

    found = norm("embeddings") | linear("pooler.dense", WIDTH, WIDTH)
    for name, rows in (("word", VOCAB), ("position", LONGEST), ("token_type", 2)):
        table = torch.randn(rows, WIDTH, generator=generator)
        found[f"embeddings.{name}_embeddings.weight"] = table
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            found |= linear(f"{at}.attention.self.{part}", WIDTH, WIDTH)
        found |= linear(f"{at}.attention.output.dense", WIDTH, WIDTH)
        found |= linear(f"{at}.intermediate.dense", INNER, WIDTH)
        found |= linear(f"{at}.output.dense", WIDTH, INNER)
        found |= norm(f"{at}.attention.output") | norm(f"{at}.output")
    return found


def _tokenizer() -> Tokenizer:
    """Return one that knows words by number, with BERT's marks around each text."""
    taken = set(MARKS.values())
    words = {f"w{n}": n for n in range(VOCAB) if n not in taken}
    found = Tokenizer(models.WordLevel({**MARKS, **words}, unk_token="[UNK]"))  # noqa: S106
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(mark, MARKS[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    found.add_special_tokens(list(MARKS))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        type=lambda text: [name for name in text.split(",") if name in KNOWN],
        default=list(PEERS),
        help="comma-separated; empty for none (default: sentence-transformers,fastembed)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of ours",
    )
    parser.add_argument("--threads", type=int, help="default: one per core")
    parser.add_argument("--quick", action="store_true", help="two rounds instead of seven")
    return parser


if __name__ == "__main__":
    main()
