"""Going on with a stream that broke elsewhere: what the engine still has to do. Pure.

Text, stop strings and usage are rebuilt by `Answer` and the shape of chunks by `Bodies`, both by
replaying the tokens that were shown; the engine takes them as known and draws the next one, which
depends on (seed, choice, position) only.
"""

import msgspec

from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.journal import FIELD, Resume, ResumedChoice
from penstock_worker.messages import AddRequest


def resumed(
    requests: list[AddRequest], resume: Resume | None
) -> tuple[list[AddRequest], dict[int, ResumedChoice]]:
    """Return the engine requests with the output they already have, and that output by choice.

    Raises:
        ApiError: the resumption does not belong to this request.
    """
    if resume is None:
        return requests, {}
    given = {choice.index: choice for choice in resume.choices}
    if len(given) < len(resume.choices) or max(given, default=0) >= len(requests):
        raise _wrong(f"choices must be different and below {len(requests)}")
    for choice in given.values():
        room = requests[choice.index].max_tokens
        if choice.finish_reason is None and len(choice.tokens) >= room:
            raise _wrong(f"choice {choice.index} has all of its {room} tokens but has not ended")
    return [_with_output(request, given.get(i)) for i, request in enumerate(requests)], given


def _with_output(request: AddRequest, given: ResumedChoice | None) -> AddRequest:
    if given is None:
        return request
    return msgspec.structs.replace(request, output=list(given.tokens), prompt_logprobs=None)


def _wrong(problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{FIELD}: {problem}", param=FIELD)
