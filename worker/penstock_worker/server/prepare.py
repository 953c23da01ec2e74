"""From a request body to engine requests: checks and sampling. Pure."""

from penstock_contract.blocks import MAX_SALT
from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.server.prompts import check_tokens
from penstock_worker.server.protocol import (
    MAX_CHOICES,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from penstock_worker.server.served import Served
from penstock_worker.server.trusted import Trusted


def refuse_unsupported(request: ChatRequest | CompletionRequest) -> None:
    """Refuse what would otherwise be answered wrongly."""
    if isinstance(request, ChatRequest):
        if request.functions:
            raise _unsupported("functions", "send tools")
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                "top_logprobs needs logprobs: true",
                param="top_logprobs",
            )
        return
    if request.suffix:
        raise _unsupported("suffix", "leave it out")
    if request.best_of is not None and request.best_of != request.n:
        raise _unsupported("best_of", "use n")


def check_limits(served: Served, request: ChatRequest | CompletionRequest) -> None:
    """Refuse what needs no tokenising to be refused."""
    prompts = request.prompt_count if isinstance(request, CompletionRequest) else 1
    if request.n * prompts > MAX_CHOICES:
        raise _wrong("n", f"times the number of prompts must be at most {MAX_CHOICES}")
    if len((request.cache_salt or "").encode()) > MAX_SALT:
        raise _wrong("cache_salt", f"must be at most {MAX_SALT} bytes")
    if request.stream_options is not None and not request.stream:
        raise _wrong("stream_options", "is for streams only: send stream: true, or leave it out")
    if request.stream and request.prompt_logprobs is not None:
        raise _wrong("prompt_logprobs", "cannot be streamed: leave out stream")
    max_tokens = _max_tokens(request)
    if max_tokens is not None:
        if max_tokens >= served.max_model_len:  # told before tokenising, which is what costs
            raise _too_long(served, f"{max_tokens} were asked for. Lower max_tokens.", request)
        if request.min_tokens > max_tokens:
            raise _wrong("min_tokens", f"must be at most max_tokens, {max_tokens}")
    check_tokens(served, list(request.logit_bias or {}), "logit_bias")
    check_tokens(served, request.stop_token_ids or [], "stop_token_ids")


def engine_requests(
    served: Served,
    request: ChatRequest | CompletionRequest,
    prompts: list[list[int]],
    request_id: str,
    seed: int,
    trusted: Trusted,
    grammar: str = "",
) -> list[AddRequest]:
    """Return one engine request per prompt and choice, in the order of choice indices.

    Args:
        served: the model.
        request: the checked body.
        prompts: token ids of each prompt.
        request_id: prefix of the engine requests' ids.
        seed: used when the request has none.
        trusted: what the gateway says of the request.
        grammar: what the output must follow.
    """
    max_tokens = _max_tokens(request)
    for prompt in prompts:
        _check_length(served, len(prompt), max_tokens, request)
    salt = (request.cache_salt or "").encode()
    stop_tokens = list(request.stop_token_ids or [])
    if grammar or not request.ignore_eos:  # an output that is complete has nothing to go on with
        stop_tokens += served.eos_token_ids
    return [
        AddRequest(
            id=f"{request_id}-{index * request.n + choice}",
            prompt=prompt,
            max_tokens=served.max_model_len - len(prompt) if max_tokens is None else max_tokens,
            min_tokens=request.min_tokens,
            sampling=_sampling(request, seed, choice),
            stop_token_ids=stop_tokens,
            priority=request.priority if trusted.priority is None else trusted.priority,
            salt=trusted.salted(salt),
            # An adapter that was unloaded meanwhile is refused by the engine, by its name.
            adapter="" if request.model in served.names else request.model,
            deadline=trusted.deadline,
            tpot=trusted.tpot,
            grammar=grammar,
            beside=f"{request_id}-{index * request.n}" if choice else "",
            prompt_logprobs=_prompt_logprobs(request),
        )
        for index, prompt in enumerate(prompts)
        for choice in range(request.n)
    ]


def _sampling(request: ChatRequest | CompletionRequest, seed: int, choice: int) -> Sampling:
    return Sampling(
        temperature=_or(request.temperature, 1.0),
        top_k=max(0, request.top_k or 0),
        top_p=_or(request.top_p, 1.0),
        min_p=_or(request.min_p, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        logit_bias=request.logit_bias or {},
        seed=seed if request.seed is None else request.seed,
        repeatable=request.seed is not None,
        choice=choice,
        logprobs=wanted_logprobs(request),
    )


def wanted_logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    """Return the alternatives to tell for each output token; None for no log-probabilities."""
    if isinstance(request, CompletionRequest):
        return request.logprobs
    return (request.top_logprobs or 0) if request.logprobs else None


def _prompt_logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    """Return how many alternatives each prompt token is reported with; None for no report."""
    echoed = None
    if isinstance(request, CompletionRequest) and request.echo:
        echoed = request.logprobs
    if request.prompt_logprobs is None or echoed is None:
        return echoed if request.prompt_logprobs is None else request.prompt_logprobs
    return max(echoed, request.prompt_logprobs)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _max_tokens(request: GenerationRequest) -> int | None:
    """Return the output bound, or None for the rest of the context (chat's default)."""
    if isinstance(request, ChatRequest):
        return request.max_completion_tokens or request.max_tokens
    return 16 if request.max_tokens is None else request.max_tokens  # OpenAI's default


def _blamed(request: ChatRequest | CompletionRequest) -> str:
    """Return the field to shorten: the output bound that was sent, else the prompt."""
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        return "max_completion_tokens"
    if request.max_tokens is not None:
        return "max_tokens"
    return "messages" if isinstance(request, ChatRequest) else "prompt"


def _check_length(
    served: Served, prompt: int, output: int | None, request: ChatRequest | CompletionRequest
) -> None:
    if prompt == 0:
        raise ApiError(ErrorCode.INVALID_REQUEST, "the prompt has no tokens", param="prompt")
    wanted = 1 if output is None else output
    if prompt + wanted > served.max_model_len:
        both = f"the prompt has {prompt} and {wanted} were asked for"
        raise _too_long(served, f"{both}. Shorten the prompt or lower max_tokens.", request)


def _too_long(served: Served, why: str, request: ChatRequest | CompletionRequest) -> ApiError:
    message = f"This model's maximum context length is {served.max_model_len} tokens; {why}"
    return ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param=_blamed(request))


def _wrong(param: str, must: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, f"{param} {must}", param=param)


def _unsupported(param: str, fix: str) -> ApiError:
    return ApiError(
        ErrorCode.UNSUPPORTED_PARAMETER, f"{param} is not supported here: {fix}", param=param
    )
