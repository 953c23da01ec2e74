"""What is to be known of an EAGLE-3 head, read from its `config.json`. No torch here.

Published heads come in two layouts: flat, as SpecForge, SGLang and the authors write them, and with
the layer's shape in an object of its own, as the speculators library does. What a head asks for
beyond is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_worker.model.config import ModelConfig, positive, read_json, shape_of
from penstock_worker.speculative.vocabulary import UnsupportedDraft

ARCHITECTURES = ("LlamaForCausalLMEagle3", "Eagle3Speculator", "Eagle3DraftModel")
LAYER = "transformer_layer_config"


@dataclass(frozen=True)
class HeadConfig:
    """An EAGLE-3 head."""

    shape: ModelConfig
    """Its vocabulary is what it can say."""
    taps: tuple[int, int, int]
    """Layers of its model whose inputs it sees; their number stands for what the last one gives."""
    normed: bool
    """Whether its residual stream begins with the normed states."""


def read_head(folder: Path, target: ModelConfig) -> HeadConfig:
    """Return the configuration of the head in `folder`.

    Args:
        folder: its checkpoint.
        target: the model that it is to guess for.

    Raises:
        UnsupportedModel: the file is missing or damaged.
        UnsupportedDraft: it is another kind of draft, or one of another model.
    """
    raw = read_json(folder / "config.json")
    named = next(iter(raw.get("architectures") or ["(none)"]))
    plain = named == "LlamaForCausalLM" and "draft_vocab_size" in raw  # as the authors' own have it
    if named not in ARCHITECTURES and not plain:
        raise UnsupportedDraft(
            f"config.json: architectures is {named}, not an EAGLE-3 head ({ARCHITECTURES[0]}); "
            "other models guess with --speculative draft"
        )
    flat = {**raw, **_object(raw, LAYER), "architectures": ["LlamaForCausalLM"]}
    says = flat.get("draft_vocab_size") or positive(flat, "vocab_size")
    _check(flat, target)
    return HeadConfig(
        shape=shape_of({**flat, "vocab_size": says, "tie_word_embeddings": False}, folder),
        taps=_taps(flat, target.num_layers),
        normed=bool(flat.get("norm_before_residual", False)),
    )


def _object(raw: dict[str, Any], field: str) -> dict[str, Any]:
    found = raw.get(field) or {}
    if not isinstance(found, dict):
        raise UnsupportedDraft(f"config.json: {field} is not an object")
    return found


def _check(raw: dict[str, Any], target: ModelConfig) -> None:
    for field, theirs, ours in (
        ("hidden_size", positive(raw, "hidden_size"), target.hidden_size),
        ("target_hidden_size", raw.get("target_hidden_size"), target.hidden_size),
        ("vocab_size", positive(raw, "vocab_size"), target.vocab_size),
    ):
        if theirs not in (None, ours):
            raise UnsupportedDraft(
                f"config.json: {field} is {theirs}, the model's is {ours}: a head guesses for the "
                "model that it was trained with"
            )
    if positive(raw, "num_hidden_layers") != 1:
        raise UnsupportedDraft("config.json: num_hidden_layers must be 1 in an EAGLE-3 head")
    eagle = _object(raw, "eagle_config")
    for field, needed in (
        ("use_aux_hidden_state", True),
        ("use_input_layernorm_in_first_layer", True),
        ("use_last_layernorm", True),
        ("use_mtp_layernorm", False),
        ("norm_before_fc", False),
        ("fc_norm", False),
    ):
        if bool(eagle.get(field, raw.get(field, needed))) is not needed:
            raise UnsupportedDraft(f"config.json: {field} other than {needed} is not supported")


def _taps(raw: dict[str, Any], layers: int) -> tuple[int, int, int]:
    """Return what the head was trained on; what everybody takes unless it says otherwise.

    At the top a number is that of the layer whose input it is, and in `eagle_config` that of the
    layer which gives it. In whatever order they are told, states are fused in that of the layers.
    """
    given = raw.get("eagle_aux_hidden_state_layer_ids")
    theirs = given or _object(raw, "eagle_config").get("eagle_aux_hidden_state_layer_ids")
    taps = theirs or [2, layers // 2, layers - 3]
    counted = isinstance(taps, list) and all(isinstance(tap, int) for tap in taps)
    if counted and theirs and not given:
        taps = [tap + 1 for tap in taps]
    if not counted or len(taps) != 3 or min(taps) < 0 or max(taps) > layers:
        raise UnsupportedDraft(
            f"config.json: eagle_aux_hidden_state_layer_ids {theirs} must be three of the model's "
            f"{layers} layers"
        )
    first, middle, last = sorted(taps)
    return first, middle, last
