"""Request bodies of embeddings (OpenAI's), scores (vLLM's) and rankings (Jina's, Cohere's, vLLM's).

Unknown fields are ignored and counted, as in completions.
"""

from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from penstock_worker.server.protocol import TokenId

MAX_INPUTS = 2048
"""As OpenAI has it."""

_WITHOUT_EFFECT = frozenset({"user", "metadata", "service_tier", "safety_identifier"})

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]


class PoolingRequest(BaseModel):
    """What all of them have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    """Keep so many tokens, the first ones; -1 for as many as fit."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0

    @property
    def ignored(self) -> set[str]:
        """Names of fields that are unknown; those that say nothing of the answer are no loss."""
        return set(self.model_extra or {}) - _WITHOUT_EFFECT


class EmbeddingRequest(PoolingRequest):
    """POST /v1/embeddings."""

    input: (
        str
        | Texts
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]],
            Field(min_length=1, max_length=MAX_INPUTS),
        ]
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = True


class ScoreRequest(PoolingRequest):
    """POST /v1/score: one text with many, or as many with as many."""

    text_1: str | Texts = Field(validation_alias=AliasChoices("text_1", "queries", "data_1"))
    text_2: str | Texts = Field(validation_alias=AliasChoices("text_2", "documents", "data_2"))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs to score; fewer than there are texts where the counts do not match."""
        ones, twos = _listed(self.text_1), _listed(self.text_2)
        return list(zip(ones * len(twos) if len(ones) == 1 else ones, twos, strict=False))

    @property
    def matches(self) -> bool:
        """Whether each text has a partner."""
        ones, twos = len(_listed(self.text_1)), len(_listed(self.text_2))
        return ones in (1, twos)


class Document(BaseModel):
    """A text, as Jina and Cohere may wrap it."""

    text: str


class RerankRequest(PoolingRequest):
    """POST /v1/rerank and /v2/rerank."""

    query: str
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Field(ge=0)] | None = None
    """0, as in vLLM, for all."""
    return_documents: bool = True

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
