"""What an encoder needs to know of a checkpoint, read from its `config.json`. No torch.

BERT (Devlin et al., 2019) and RoBERTa (Liu et al., 2019; XLM-R, Conneau et al., 2020) differ in
where positions begin and in the head that scores. What is not computed is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock_worker.model.config import UnsupportedModel
from penstock_worker.pooling.task import CLASSIFIERS, ENCODERS, architecture_of, read_object

_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
_IDENTITY: Final = "Identity"
_SIGMOID: Final = "Sigmoid"


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder."""

    family: str
    """bert or roberta: the prefix of tensors in checkpoints that have a head."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    norm_eps: float
    activation: str
    """gelu, gelu_tanh, relu or silu."""
    positions: int
    """Rows of the position embeddings."""
    first_position: int
    """Row of an input's first token: RoBERTa leaves room for padding."""
    token_types: int
    scores: bool
    """Whether it has a head that turns a pair into a score."""
    squashed: bool
    """Whether scores are brought between 0 and 1."""
    dtype: str
    """That the checkpoint says it is stored in."""

    @property
    def max_tokens(self) -> int:
        """Longest input."""
        return self.positions - self.first_position

    @property
    def two_types(self) -> bool:
        """Whether a pair's second text is of another type: RoBERTa's tables are not made for it."""
        return self.token_types > 1 and self.family == "bert"

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads


def read_encoder(folder: Path) -> EncoderConfig:
    """Return the configuration of the encoder in `folder`.

    Raises:
        UnsupportedModel: the file is missing, damaged, or describes another kind of model.
    """
    architecture = architecture_of(folder)
    if architecture not in (*ENCODERS, *CLASSIFIERS):
        known = ", ".join((*ENCODERS, *CLASSIFIERS))
        raise UnsupportedModel(
            f"config.json: architectures is {architecture}; encoders that are run: {known}"
        )
    raw = read_object(folder / "config.json")
    family = "bert" if architecture.startswith("Bert") else "roberta"
    scores = architecture in CLASSIFIERS
    _refuse(raw, scores=scores)
    hidden, heads = _positive(raw, "hidden_size"), _positive(raw, "num_attention_heads")
    if hidden % heads:
        raise UnsupportedModel("config.json: hidden_size is not a multiple of num_attention_heads")
    padding = raw.get("pad_token_id")
    return EncoderConfig(
        family=family,
        vocab_size=_positive(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_positive(raw, "intermediate_size"),
        num_layers=_positive(raw, "num_hidden_layers"),
        num_heads=heads,
        norm_eps=float(raw.get("layer_norm_eps", 1e-12)),
        activation=_activation(raw),
        positions=_positive(raw, "max_position_embeddings"),
        first_position=0 if family == "bert" else (1 if padding is None else int(padding)) + 1,
        token_types=_positive(raw, "type_vocab_size"),
        scores=scores,
        squashed=scores and _squashed(raw),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )


def _refuse(raw: dict[str, Any], *, scores: bool) -> None:
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModel("config.json: position_embedding_type is not absolute")
    for field in ("is_decoder", "add_cross_attention", "quantization_config"):
        if raw.get(field):
            raise UnsupportedModel(f"config.json: {field} is not supported")
    labels = len(raw["id2label"]) if raw.get("id2label") else raw.get("num_labels", 2)
    if scores and labels != 1:
        raise UnsupportedModel(
            f"config.json: it tells {labels} classes apart; only models with one score are run"
        )


def _squashed(raw: dict[str, Any]) -> bool:
    """As sentence-transformers' CrossEncoder decides: a sigmoid, unless the model says otherwise.

    Raises:
        UnsupportedModel: it asks for something else.
    """
    told = (raw.get("sentence_transformers") or {}).get("activation_fn")
    told = told or raw.get("sbert_ce_default_activation_function") or _SIGMOID
    kind = str(told).rpartition(".")[2]
    if kind not in (_SIGMOID, _IDENTITY):
        raise UnsupportedModel(f"config.json: activation_fn {told} of scores is not supported")
    return kind == _SIGMOID


def _activation(raw: dict[str, Any]) -> str:
    found = raw.get("hidden_act", "gelu")
    if found not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedModel(f"config.json: hidden_act {found!r}; known: {known}")
    return _ACTIVATIONS[found]


def _positive(raw: dict[str, Any], field: str) -> int:
    value = raw.get(field)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedModel(f"config.json: {field} must be a positive integer, not {value!r}")
    return value
