"""Log-probabilities as OpenAI's two endpoints and vLLM's extra field write them."""

from collections.abc import Sequence
from typing import Any

from penstock_worker.messages import TokenLogprobs
from penstock_worker.text.tokenizer import Tokenizer


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], found: Sequence[TokenLogprobs]
) -> dict[str, Any]:
    """Return the `logprobs` of a chat choice."""

    def described(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(tokenizer.bytes_of(token))}

    content = [
        {
            **described(token, entry.logprob),
            "top_logprobs": [described(other, value) for other, value in entry.top],
        }
        for token, entry in zip(tokens, found, strict=True)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    found: Sequence[TokenLogprobs | None],
    count: int,
    offset: int,
) -> dict[str, Any]:
    """Return the `logprobs` of a plain completion's choice.

    Args:
        tokenizer: the model's.
        tokens: prompt tokens among them, if these are echoed.
        found: one per token; None for the first of a prompt.
        count: alternatives to tell.
        offset: in the choice's text, where the first token begins.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(tokenizer.decode([token]))  # special tokens do not show
    return {
        "tokens": [_text(tokenizer, token) for token in tokens],
        "token_logprobs": [None if entry is None else entry.logprob for entry in found],
        "top_logprobs": [
            entry and _table(tokenizer, token, entry, count)
            # What is replayed of a resumed answer, which nobody sees, has no scores of its prompt.
            for token, entry in zip(tokens, found, strict=False)
        ],
        "text_offset": offsets,
    }


def prompt_logprobs(
    tokenizer: Tokenizer, prompt: Sequence[int], found: Sequence[TokenLogprobs], count: int
) -> list[dict[str, Any] | None]:
    """Return vLLM's `prompt_logprobs`: for each token but the first, itself and the likeliest."""
    entries: list[dict[str, Any] | None] = [None]
    for token, entry in zip(prompt[1:], found, strict=True):
        ranked = [(other, value, rank) for rank, (other, value) in enumerate(entry.top[:count], 1)]
        entries.append(
            {
                str(other): {
                    "logprob": value,
                    "rank": rank,
                    "decoded_token": _text(tokenizer, other),
                }
                for other, value, rank in [*ranked, (token, entry.logprob, entry.rank)]
            }
        )
    return entries


def _table(tokenizer: Tokenizer, token: int, entry: TokenLogprobs, count: int) -> dict[str, float]:
    """The token itself is always in it, as in OpenAI's: there may be one more than asked for."""
    found = {_text(tokenizer, other): value for other, value in entry.top[:count]}
    found.setdefault(_text(tokenizer, token), entry.logprob)
    return found


def _text(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([token], skip_special_tokens=False)
