"""What sampled tokens mean for a request: they are its output, and may be its end. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from penstock_worker.messages import Drafted, FinishReason, Output, TokenLogprobs
from penstock_worker.request import Request
from penstock_worker.runner_interface import SampledToken
from penstock_worker.speculative.accept import agreed
from penstock_worker.step import Slice


class Progress(NamedTuple):
    """What a request got from a step."""

    tokens: list[int]
    logprobs: list[TokenLogprobs]
    """One per token, when asked for."""
    reason: FinishReason | None


def advance(request: Request, drafts: Sequence[int], sampled: Sequence[SampledToken]) -> Progress:
    """Append sampled tokens to a request, as far as the drafts in front of them were right.

    Args:
        request: computed up to its last known token.
        drafts: tokens guessed behind that, computed too.
        sampled: one behind the last known token and one behind each draft.
    """
    if drafts:
        sampled = sampled[: agreed(drafts, [found.token for found in sampled]) + 1]
    tokens: list[int] = []
    logprobs: list[TokenLogprobs] = []
    reason = None
    for found in sampled:
        if len(request.tokens) >= request.max_length:  # nothing was to be generated at all
            reason = FinishReason.LENGTH
            break
        if tokens:
            request.computed += 1  # the KV of a draft that was right is there already
        request.tokens.append(found.token)
        tokens.append(found.token)
        if found.logprobs is not None:
            logprobs.append(found.logprobs)
        reason = _finish_reason(request, found.token)
        if reason is not None:
            break
    return Progress(tokens, logprobs, reason)


def drafted(slices: Sequence[Slice], reports: Sequence[Output | None]) -> Drafted | None:
    """Return what the guesses of a step were worth; None without any."""
    guessed = [
        (len(part.drafts), len(report.tokens) - 1 if report is not None else 0)
        for part, report in zip(slices, reports, strict=True)
        if part.drafts
    ]
    if not guessed:
        return None
    most = max(right for _, right in guessed)
    by_place = [sum(1 for _, right in guessed if right > place) for place in range(most)]
    return Drafted(len(guessed), sum(tokens for tokens, _ in guessed), by_place)


def _finish_reason(request: Request, token: int) -> FinishReason | None:
    # Before min_tokens a stop token is drawn only where a grammar leaves nothing else.
    if token in request.stop_tokens and (request.matcher or _is_long_enough(request)):
        return FinishReason.STOP
    if len(request.tokens) >= request.max_length:
        return FinishReason.LENGTH
    return None


def _is_long_enough(request: Request) -> bool:
    return request.output_length >= request.min_tokens
