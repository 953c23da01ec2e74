"""What the server knows of its model."""

from dataclasses import dataclass

from penstock_contract.api.engine import Task
from penstock_worker.grammar import Grammars
from penstock_worker.pooling.shape import PoolingShape
from penstock_worker.text.chat_template import ChatTemplate
from penstock_worker.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """One model."""

    names: tuple[str, ...]
    tokenizer: Tokenizer
    chat_template: ChatTemplate
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    vocab_size: int
    grammars: Grammars
    pooling: PoolingShape | None = None
    """Of a model that embeds or scores."""

    @property
    def task(self) -> Task:
        """What it is for."""
        return Task.GENERATE if self.pooling is None else self.pooling.task
