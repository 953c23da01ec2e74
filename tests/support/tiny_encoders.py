"""Random-weight models that embed or score, with files as sentence-transformers writes them.

Their tokenizer knows the words `w0`, `w1`, …, so that a test says how many tokens a text has.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

WORDS = 300
CLS, SEP, PAD, UNKNOWN = 0, 2, 1, 3
POSITIONS = 130
WIDTH = 64

SHAPE: dict[str, Any] = {
    "vocab_size": WORDS + 4,
    "hidden_size": WIDTH,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}

MODELS: dict[str, Any] = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    # vLLM computes no attention on CPUs whose heads are as narrow as the others'.
    "bert-wide": lambda: BertModel(
        BertConfig(**{**SHAPE, "hidden_size": 2 * WIDTH, "num_attention_heads": 2})
    ),
    "bert-tanh": lambda: BertModel(BertConfig(**SHAPE, hidden_act="gelu_new")),
    "bert-relu": lambda: BertModel(BertConfig(**SHAPE, hidden_act="relu")),
    "bert-silu": lambda: BertModel(BertConfig(**SHAPE, hidden_act="silu")),
    "xlm-roberta": lambda: XLMRobertaModel(XLMRobertaConfig(**SHAPE, type_vocab_size=1)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16)),
    "qwen3-window": lambda: Qwen3Model(
        Qwen3Config(
            **SHAPE,
            num_key_value_heads=2,
            head_dim=16,
            use_sliding_window=True,
            sliding_window=9,
            max_window_layers=1,
        )
    ),
    "qwen3-causal": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16)
    ),
    "bert-cross": lambda: BertForSequenceClassification(BertConfig(**SHAPE, num_labels=1)),
    "xlm-roberta-cross": lambda: XLMRobertaForSequenceClassification(
        XLMRobertaConfig(**SHAPE, type_vocab_size=1, num_labels=1)
    ),
}

FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
}


def make(kind: str, folder: Path) -> Any:
    """Write a checkpoint and a tokenizer into `folder`; return the transformers model."""
    torch.manual_seed(1)
    model = MODELS[kind]().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def describe(
    folder: Path, pooling: str, *, normalised: bool = True, longest: int | None = None
) -> None:
    """Write the files by which sentence-transformers knows how vectors are made."""
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    kinds += [("Normalize", "2_Normalize")] if normalised else []
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    found: dict[str, Any] = {"word_embedding_dimension": WIDTH}
    found |= {flag: name == pooling for name, flag in FLAGS.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(found))
    if longest is not None:
        limits = {"max_seq_length": longest, "do_lower_case": False}
        (folder / "sentence_bert_config.json").write_text(json.dumps(limits))


def tokenizer() -> Tokenizer:
    """Return BERT's: a mark in front, one behind each text, and types that tell a pair apart."""
    marks = {"[CLS]": CLS, "[PAD]": PAD, "[SEP]": SEP, "[UNK]": UNKNOWN}
    vocabulary = {**marks, **{f"w{n}": n + 4 for n in range(WORDS)}}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    found.add_special_tokens(list(marks))
    # Many are saved so; what is served must not be cut or filled up by it.
    found.enable_truncation(8)
    found.enable_padding(pad_id=PAD, length=8)
    return found


def words(count: int, first: int = 0) -> str:
    """Return a text of so many tokens, marks not counted."""
    return " ".join(f"w{(first + 7 * n) % WORDS}" for n in range(count))


def ids(text: str) -> list[int]:
    """Return the token ids of a text, with its marks."""
    return [CLS, *(int(word[1:]) + 4 for word in text.split()), SEP]
