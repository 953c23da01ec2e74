"""From the texts of a request to token ids that the model takes."""

from dataclasses import dataclass
from typing import Any

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.pooling_protocol import EmbeddingRequest
from penstock_worker.server.prompts import check_tokens
from penstock_worker.server.served import Served

LETTERS_PER_TOKEN = 8
"""Times the longest token: tokenisers drop spaces, and make one token of what they do not know."""


@dataclass(frozen=True)
class Inputs:
    """Token ids of each input; of pairs also where their second texts begin."""

    tokens: list[list[int]]
    seconds: list[int]

    @property
    def count(self) -> int:
        """All their tokens."""
        return sum(map(len, self.tokens))


def embedding_inputs(served: Served, request: EmbeddingRequest) -> Inputs:
    """Return the inputs of an embedding request.

    Raises:
        ApiError: one is empty, too long, or has tokens that do not exist.
    """
    most, given = _most(served, request.truncate_prompt_tokens), request.input
    if isinstance(given, str):
        found = _texts(served, [given], most, marked=request.add_special_tokens)
    elif isinstance(given[0], str):
        texts = [str(text) for text in given]
        found = _texts(served, texts, most, marked=request.add_special_tokens)
    else:
        lists: list[Any] = [given] if isinstance(given[0], int) else given
        for ids in lists:
            check_tokens(served, ids, "input")
        found = [list(ids)[:most] for ids in lists]
    _check(served, found, "input")
    return Inputs(found, [])


def text_inputs(served: Served, texts: list[str], truncate: int | None, param: str) -> Inputs:
    """Return texts as inputs of their own.

    Raises:
        ApiError: as `embedding_inputs`.
    """
    found = _texts(served, texts, _most(served, truncate), marked=True, param=param)
    _check(served, found, param)
    return Inputs(found, [])


def pair_inputs(
    served: Served, pairs: list[tuple[str, str]], truncate: int | None, param: str
) -> Inputs:
    """Return pairs as a cross-encoder reads them.

    Raises:
        ApiError: as `embedding_inputs`.
    """
    most = _most(served, truncate)
    for place, pair in enumerate(pairs):
        _check_letters(served, sum(map(len, pair)), place, param, cut=most is not None)
    found = served.tokenizer.encode_pairs(_cut_pairs(served, pairs, most), most=most)
    tokens = [ids for ids, _ in found]
    _check(served, tokens, param)
    return Inputs(tokens, [second for _, second in found])


def _texts(
    served: Served, texts: list[str], most: int | None, *, marked: bool, param: str = "input"
) -> list[list[int]]:
    for place, text in enumerate(texts):
        _check_letters(served, len(text), place, param, cut=most is not None)
    letters = _letters(served)
    kept = [text[:letters] for text in texts]
    return served.tokenizer.encode_texts(kept, add_special_tokens=marked, most=most)


def _cut_pairs(
    served: Served, pairs: list[tuple[str, str]], most: int | None
) -> list[tuple[str, str]]:
    letters = _letters(served)
    return pairs if most is None else [(one, two[:letters]) for one, two in pairs]


def _most(served: Served, truncate: int | None) -> int | None:
    return served.max_model_len if truncate == -1 else truncate


def _letters(served: Served) -> int:
    return LETTERS_PER_TOKEN * served.tokenizer.longest * served.max_model_len


def _check_letters(served: Served, letters: int, place: int, param: str, *, cut: bool) -> None:
    """Refuse what cannot fit, before it is tokenised: that is what costs."""
    if letters > _letters(served) and not cut:
        raise _too_long(served, f"{letters} letters", place, param)


def _check(served: Served, found: list[list[int]], param: str) -> None:
    for place, ids in enumerate(found):
        if not ids:
            message = f"{param}[{place}] has no tokens"
            raise ApiError(ErrorCode.INVALID_REQUEST, message, param=param)
        if len(ids) > served.max_model_len:
            raise _too_long(served, f"{len(ids)} tokens", place, param)


def _too_long(served: Served, has: str, place: int, param: str) -> ApiError:
    return ApiError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"This model's maximum context length is {served.max_model_len} tokens; {param}[{place}] "
        f"has {has}. Shorten it, or send truncate_prompt_tokens: -1 to have its end left out.",
        param=param,
    )
