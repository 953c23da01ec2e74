"""Whether a draft model can guess for its target. No torch here: a server asks before it starts."""

from pathlib import Path

from penstock_worker.engine_config import EngineConfig
from penstock_worker.model.config import ModelConfig, UnsupportedModel, read_config
from penstock_worker.model.files import weight_files
from penstock_worker.speculative.vocabulary import UnsupportedDraft, check_vocabulary


def draft_shape(
    config: EngineConfig, target: ModelConfig, max_model_len: int
) -> ModelConfig | None:
    """Return the shape of the draft that an engine is to have; None for none.

    Args:
        config: the engine's.
        target: that it is to guess for.
        max_model_len: prompt + output that the target takes.

    Raises:
        UnsupportedDraft: it cannot be one for this target; the message begins with the flag.
    """
    if config.speculative != "draft":
        if config.speculative_model:
            raise UnsupportedDraft("--speculative-model: add --speculative draft, or leave it out")
        return None
    if not config.speculative_model:
        raise UnsupportedDraft("--speculative-model: name the folder of the draft's checkpoint")
    if config.tensor_parallel_size > 1:
        raise UnsupportedDraft("--speculative draft: use ngram with --tensor-parallel-size above 1")
    folder = Path(config.speculative_model)
    try:
        shape = read_config(folder)
        weight_files(folder)
        check_vocabulary(Path(config.model), folder)
        _check(shape, target, max_model_len)
    except (UnsupportedModel, UnsupportedDraft) as error:
        raise UnsupportedDraft(f"--speculative-model {folder}: {error}") from error
    return shape


def _check(shape: ModelConfig, target: ModelConfig, max_model_len: int) -> None:
    if shape.max_position < max_model_len:
        raise UnsupportedDraft(
            f"its context of {shape.max_position} tokens is shorter than the model's "
            f"{max_model_len}: lower --max-model-len"
        )
    if target.window:
        raise UnsupportedDraft(
            "every layer of the model slides, and what these let go a draft would still read: use "
            "--speculative ngram"
        )
