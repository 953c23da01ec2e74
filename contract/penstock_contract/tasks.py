"""What models are for, and the routes that are for it: gateway and worker refuse alike."""

from typing import Final

from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError, ErrorCode

EMBEDDINGS: Final = "/v1/embeddings"
SCORE: Final = "/v1/score"
RERANK: Final = ("/v1/rerank", "/v2/rerank")
"""One body for both: Jina's and vLLM's clients ask the first, Cohere's the second."""

POOLING_PATHS: Final = (EMBEDDINGS, SCORE, *RERANK)

SPEECH_PATHS: Final = ("/v1/audio/transcriptions", "/v1/audio/translations")
"""Their bodies are forms with a recording."""

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
GENERATION: Final = (CHAT, COMPLETIONS)

TEXT_FIELDS: Final = ("input",)
"""Of bodies that have inputs by themselves."""
PAIR_FIELDS: Final = (
    ("query", "documents"),
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("data_1", "data_2"),
)
"""Of bodies that have texts to compare."""

ROUTES: Final = {
    Task.GENERATE: GENERATION,
    Task.EMBED: POOLING_PATHS,  # texts are compared by their vectors' cosine
    Task.SCORE: (SCORE, *RERANK),
    Task.TRANSCRIBE: SPEECH_PATHS,
}
"""Of each task; those that all models have, such as /tokenize, belong to none."""

_WORDS: Final = {
    Task.GENERATE: "generates text",
    Task.EMBED: "embeds texts",
    Task.SCORE: "scores pairs of texts",
    Task.TRANSCRIBE: "writes down what is said",
}


def refuse_other_task(model: str, task: Task, path: str) -> None:
    """Refuse a route that is for another kind of model.

    Raises:
        ApiError: it is; the message tells the routes that the model has.
    """
    routes = ROUTES.get(task)
    if routes is None or path in routes:
        return
    if path in GENERATION or path in POOLING_PATHS or path in SPEECH_PATHS:
        raise ApiError(
            ErrorCode.TASK_NOT_SUPPORTED,
            f"The model {model!r} {_WORDS[task]}: it has {', '.join(routes)}, not {path}.",
            param="model",
        )
