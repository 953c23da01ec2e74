"""From the texts of a request to token ids that the model takes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.pooling_protocol import EmbeddingRequest
from penstock_worker.server.prompts import check_tokens
from penstock_worker.server.served import Served

LETTERS_PER_TOKEN: Final = 8
"""Times the longest token: tokenisers drop spaces, and make one token of what they do not know."""
MAX_TOKENS: Final = 1 << 20
"""Of all inputs together. A short body can ask for many more: its query is in every pair."""


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
        found = _texts(served, [given], most, "input", marked=request.add_special_tokens)
    elif isinstance(given[0], str):
        texts = [str(text) for text in given]
        found = _texts(served, texts, most, "input", marked=request.add_special_tokens)
    else:
        lists: list[Any] = [given] if isinstance(given[0], int) else given
        for ids in lists:
            check_tokens(served, ids, "input")
        found = (list(ids)[:most] for ids in lists)
    return _fitting(served, ((ids, 0) for ids in found), "input")


def text_inputs(served: Served, texts: list[str], truncate: int | None, param: str) -> Inputs:
    """Return texts as inputs of their own.

    Raises:
        ApiError: as `embedding_inputs`.
    """
    found = _texts(served, texts, _most(served, truncate), param, marked=True)
    return _fitting(served, ((ids, 0) for ids in found), param)


def pair_inputs(
    served: Served, pairs: list[tuple[str, str]], truncate: int | None, param: str
) -> Inputs:
    """Return pairs as a cross-encoder reads them.

    Raises:
        ApiError: as `embedding_inputs`.
    """
    most, letters = _most(served, truncate), _letters(served)
    for place, (one, two) in enumerate(pairs):
        if len(one) > letters:  # it is never cut
            raise _too_long(served, f"{len(one)} letters to be compared with", place, param)
        _check_letters(served, len(one) + len(two), place, param, cut=most is not None)
    kept = ((one, two[:letters]) for one, two in pairs)
    return _fitting(served, served.tokenizer.encode_pairs(kept, most=most), param)


def _texts(
    served: Served, texts: list[str], most: int | None, param: str, *, marked: bool
) -> Iterator[list[int]]:
    for place, text in enumerate(texts):
        _check_letters(served, len(text), place, param, cut=most is not None)
    kept = (text[: _letters(served)] for text in texts)
    return served.tokenizer.encode_texts(kept, add_special_tokens=marked, most=most)


def _fitting(served: Served, found: Iterable[tuple[list[int], int]], param: str) -> Inputs:
    """Return inputs, of which each fits into the model, and all together into a request."""
    tokens: list[list[int]] = []
    seconds: list[int] = []
    room = MAX_TOKENS
    for place, (ids, second) in enumerate(found):
        if not ids:
            message = f"{param}[{place}] has no tokens"
            raise ApiError(ErrorCode.INVALID_REQUEST, message, param=param)
        if len(ids) > served.max_model_len:
            raise _too_long(served, f"{len(ids)} tokens", place, param)
        room -= len(ids)
        if room < 0:
            message = f"{param}: all together must have at most {MAX_TOKENS} tokens; split them"
            raise ApiError(ErrorCode.INVALID_REQUEST, message, param=param)
        tokens.append(ids)
        seconds.append(second)
    return Inputs(tokens, seconds if any(seconds) else [])


def _most(served: Served, truncate: int | None) -> int | None:
    return served.max_model_len if truncate == -1 else truncate


def _letters(served: Served) -> int:
    return LETTERS_PER_TOKEN * served.tokenizer.longest * served.max_model_len


def _check_letters(served: Served, letters: int, place: int, param: str, *, cut: bool) -> None:
    """Refuse what cannot fit, before it is tokenised: that is what costs."""
    if letters > _letters(served) and not cut:
        raise _too_long(served, f"{letters} letters", place, param)


def _too_long(served: Served, has: str, place: int, param: str) -> ApiError:
    return ApiError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"This model's maximum context length is {served.max_model_len} tokens; {param}[{place}] "
        f"has {has}. Shorten it, or send truncate_prompt_tokens: -1 to have its end left out.",
        param=param,
    )
