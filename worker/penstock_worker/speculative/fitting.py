"""Whether a draft or head fits its target. No torch here: a server asks before it starts."""

from pathlib import Path

from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig, UnsupportedModel, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.speculative.head_config import HeadConfig, read_head
from penstock_worker.speculative.vocabulary import UnsupportedDraft, check_vocabulary

METHODS = ("draft", "eagle3")
"""Who needs a checkpoint."""


def draft_shape(
    config: EngineConfig, target: ModelConfig, max_model_len: int
) -> ModelConfig | HeadConfig | None:
    """Return the shape of the draft or head that an engine is to have; None for none.

    Args:
        config: the engine's.
        target: that it is to guess for.
        max_model_len: prompt + output that the target takes.

    Raises:
        UnsupportedDraft: it cannot be one for this target; the message begins with the flag.
    """
    method = config.speculative
    if method not in METHODS:
        if config.speculative_model:
            either = " or ".join(METHODS)
            raise UnsupportedDraft(
                f"--speculative-model: add --speculative {either}, or leave it out"
            )
        return None
    if not config.speculative_model:
        raise UnsupportedDraft("--speculative-model: name the folder of the draft's checkpoint")
    if config.tensor_parallel_size > 1:
        raise UnsupportedDraft(
            f"--speculative {method}: use ngram with --tensor-parallel-size above 1"
        )
    folder = Path(config.speculative_model)
    shape: ModelConfig | HeadConfig
    try:
        if method == "eagle3":
            shape = _head(config, folder, target)
        else:
            shape = _draft(config, folder, target, max_model_len)
        weight_files(folder)
    except (UnsupportedModel, UnsupportedDraft) as error:
        raise UnsupportedDraft(f"--speculative-model {folder}: {error}") from error
    return shape


def _draft(
    config: EngineConfig, folder: Path, target: ModelConfig, max_model_len: int
) -> ModelConfig:
    shape = read_config(folder)
    check_vocabulary(Path(config.model), folder)
    if shape.max_position < max_model_len:
        raise UnsupportedDraft(
            f"its context of {shape.max_position} tokens is shorter than the model's "
            f"{max_model_len}: lower --max-model-len"
        )
    _check_window(target)
    return shape


def _head(config: EngineConfig, folder: Path, target: ModelConfig) -> HeadConfig:
    _check_window(target)
    elsewhere = "what the model thought of tokens does not come with their KV: leave out "
    if config.tier is not None:
        raise UnsupportedDraft(f"{elsewhere}--kv-tier-disk, or use --speculative draft")
    if config.transfer is not None:
        raise UnsupportedDraft(f"{elsewhere}--kv-transfer, or use --speculative draft")
    if target.embedding_scale != 1.0:
        raise UnsupportedDraft("heads for Gemma are not supported: use --speculative draft")
    return read_head(folder, target)


def _check_window(target: ModelConfig) -> None:
    if target.window:
        raise UnsupportedDraft(
            "every layer of the model slides, and what these let go a draft would still read: use "
            "--speculative ngram"
        )
