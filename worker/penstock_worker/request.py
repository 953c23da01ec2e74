"""A request inside the engine: its known tokens, how far they are computed, its block table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from penstock_contract.blocks import SEED, adapter_salt, block_hash
from penstock_worker.grammar import Matcher
from penstock_worker.lora.shelf import Version
from penstock_worker.messages import AddRequest, Sampling, TokenLogprobs


@dataclass(eq=False)
class Request:
    """The state of one request. Known tokens are prompt and output; computed ones have KV."""

    id: str
    tokens: list[int]
    prompt_length: int
    max_length: int
    """Known tokens at which the request ends with `length`."""
    sampling: Sampling
    min_tokens: int
    stop_tokens: frozenset[int]
    priority: int
    salt: bytes
    """Of its blocks' names: tenant and adapter are in it."""
    adapter: str
    """Its name; empty for the base model."""
    resumed_at: int
    """Output tokens that came with the request."""
    arrival: int
    """Order of arrival, a counter: it breaks ties of priority."""
    arrived_at: float
    """Monotonic seconds."""
    weights: str = ""
    """Key of what stood under its adapter's name when it came."""
    matcher: Matcher | None = None
    """Follows the output through its grammar, if it has one."""
    allowed: Sequence[bytes] = ()
    """Bits of the tokens that its grammar allows next, and behind each draft."""
    deadline: float | None = None
    """Monotonic seconds at which it is given up."""
    tpot: float = inf
    """Seconds between two of its tokens, as asked for."""
    prompt_logprobs: int | None = None
    """Alternatives to report for each prompt token, if these are to be scored."""
    scores: list[TokenLogprobs] = field(default_factory=list)
    """Of the prompt tokens from the second on, as far as they are computed."""
    drafts: Sequence[int] = ()
    """Tokens that a proposer guesses to come next."""
    probabilities: Sequence[Any] = ()
    """Of all tokens in each one's place, tensors [vocab], where guesses were drawn from them."""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    behind: int = 0
    """Leading blocks that were let go, behind a sliding window; the table has GONE for them."""
    names: list[bytes] = field(default_factory=list)
    """Chained hashes of the full blocks of the known tokens, as far as they were needed."""
    forked: bool = False
    """Whether the next block that it writes may be one that it shares with another choice."""
    named: int = 0
    """Blocks of the table that the pool was offered under their names."""
    admitted: bool = False
    """Whether it ever ran; a preempted request is admitted again but counted once."""
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache gave on first admission."""
    queue_seconds: float = 0.0
    """Time until first scheduled."""
    keep: bool = False
    """When it ends, its prompt's blocks are kept for another worker."""
    asked: bool = False
    """Whether a slower tier was asked for its blocks since it began to wait."""
    pulled_tokens: int = 0
    """Prompt tokens whose KV was brought into the cache for this request: no hits of it."""

    @classmethod
    def from_message(
        cls,
        message: AddRequest,
        *,
        arrival: int,
        now: float,
        max_model_len: int,
        adapter: Version | None = None,
    ) -> "Request":
        """Return the request that a message asks for, clipped to the model's context."""
        return cls(
            id=message.id,
            tokens=message.prompt + message.output,
            prompt_length=len(message.prompt),
            max_length=min(len(message.prompt) + message.max_tokens, max_model_len),
            sampling=message.sampling,
            min_tokens=message.min_tokens,
            stop_tokens=frozenset(message.stop_token_ids),
            priority=message.priority,
            salt=message.salt
            if adapter is None
            else adapter_salt(adapter.name, message.salt, adapter.digest),
            adapter=message.adapter,
            weights=adapter.key if adapter is not None else "",
            resumed_at=len(message.output),
            arrival=arrival,
            arrived_at=now,
            deadline=None if message.deadline is None else now + message.deadline,
            tpot=inf if message.tpot is None else message.tpot,
            keep=message.keep,
            prompt_logprobs=message.prompt_logprobs,
        )

    @property
    def urgency(self) -> tuple[int, int]:
        """Sort key: the most urgent request is the smallest."""
        return (-self.priority, self.arrival)

    @property
    def pending(self) -> int:
        """Known tokens whose KV is still to be computed."""
        return len(self.tokens) - self.computed

    @property
    def decodes(self) -> bool:
        """Whether its next token is all that is to be computed; a prompt's last one is none."""
        return self.pending == 1 and self.computed >= self.prompt_length

    @property
    def unscored(self) -> bool:
        """Whether prompt tokens are still to be scored."""
        return self.prompt_logprobs is not None and len(self.scores) < self.prompt_length - 1

    @property
    def output_length(self) -> int:
        """Number of tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    def full_block_names(self, block_size: int, count: int) -> list[bytes]:
        """Return the names of the first `count` blocks, all of which must be full."""
        while len(self.names) < count:
            start = len(self.names) * block_size
            parent = self.names[-1] if self.names else SEED
            block = self.tokens[start : start + block_size]
            self.names.append(block_hash(parent, block, self.salt))
        return self.names[:count]
