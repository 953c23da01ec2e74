"""What a request must satisfy before the engine takes it.

One bad number in one request must never fail a step that many share, so everything that a step
relies on is checked here, once, whatever the server has checked before. Pure.
"""

from math import inf, isfinite

from penstock_contract.blocks import MAX_SALT
from penstock_worker.messages import AddRequest, Sampling

INT64 = 1 << 63


def problem(message: AddRequest, *, vocab_size: int, max_model_len: int) -> str | None:
    """Return what is wrong with a request, by field, or None."""
    longest = max_model_len - min(1, message.max_tokens)
    if not 0 < len(message.prompt) <= longest:
        return f"the prompt must have 1 to {longest} tokens"
    for field, tokens in (
        ("prompt", message.prompt),
        ("output", message.output),
        ("stop_token_ids", message.stop_token_ids),
        ("logit_bias", list(message.sampling.logit_bias)),
    ):
        if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
            return f"{field}: token ids must be 0 to {vocab_size - 1}"
    if message.max_tokens < 0:
        return "max_tokens must be at least 0"
    if not 0 <= (message.prompt_logprobs or 0) <= vocab_size:
        return f"prompt_logprobs must be 0 to {vocab_size}"
    room = min(message.max_tokens, max_model_len - len(message.prompt))
    if message.output and len(message.output) >= room:
        return f"output has {len(message.output)} tokens already, and {room} are all there may be"
    if message.deadline is not None and not 0 < message.deadline < inf:
        return "deadline must be a number of seconds above 0"
    if len(message.salt) > MAX_SALT:
        return f"salt must be at most {MAX_SALT} bytes"
    return _sampling_problem(message.sampling, vocab_size)


def _sampling_problem(wanted: Sampling, vocab_size: int) -> str | None:
    added = (wanted.presence_penalty, wanted.frequency_penalty, *wanted.logit_bias.values())
    rules = (
        (0 <= wanted.temperature < inf, "temperature must be a number from 0"),
        (0 <= wanted.top_k < INT64, "top_k must be at least 0"),
        (0 < wanted.top_p <= 1, "top_p must be above 0 and at most 1"),
        (0 <= wanted.min_p <= 1, "min_p must be 0 to 1"),
        (0 < wanted.repetition_penalty < inf, "repetition_penalty must be a number above 0"),
        (all(map(isfinite, added)), "penalties and biases must be finite numbers"),
        (-INT64 <= wanted.seed < INT64, "seed must fit into 64 bits"),
        (0 <= wanted.choice < INT64, "choice must be at least 0"),
        (0 <= (wanted.logprobs or 0) <= vocab_size, f"logprobs must be 0 to {vocab_size}"),
    )
    return next((rule for holds, rule in rules if not holds), None)
