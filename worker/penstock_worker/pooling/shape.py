"""What the server and the engine need to know of a pooling model before it is loaded. No torch."""

from dataclasses import dataclass
from pathlib import Path

from penstock_contract.api.engine import Task
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.pooling.config import EncoderConfig, read_encoder
from penstock_worker.pooling.recipe import CLS, LAST, Recipe, read_recipe
from penstock_worker.pooling.task import CLASSIFIERS, ENCODERS, architecture_of, task_of


@dataclass(frozen=True)
class PoolingShape:
    """A pooling model, as its files describe it."""

    task: Task
    network: EncoderConfig | ModelConfig
    recipe: Recipe
    max_tokens: int
    """Longest input."""

    eos_token_ids: tuple[int, ...] = ()
    """Nothing is generated that could end."""

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.network.hidden_size

    @property
    def vocab_size(self) -> int:
        """Token ids run up to it."""
        return self.network.vocab_size


def read_shape(folder: Path, wanted: Task) -> PoolingShape:
    """Return the shape of the model in `folder`, which embeds or scores.

    Raises:
        UnsupportedModel: a file is damaged, or the model is of no kind that is run.
    """
    task = task_of(folder, wanted)
    network: EncoderConfig | ModelConfig
    if architecture_of(folder) in (*ENCODERS, *CLASSIFIERS):
        network = read_encoder(folder)
        recipe, limit = read_recipe(folder, CLS), network.max_tokens
    else:
        network = read_config(folder)
        recipe, limit = read_recipe(folder, LAST), network.max_position
    return PoolingShape(task, network, recipe, min(limit, recipe.max_tokens or limit))
