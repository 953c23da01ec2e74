"""Messages between the server process and the engine process.

They travel as msgpack over a socket pair, one length-prefixed message each, so the engine's step
never waits for HTTP and HTTP never waits for a step. Nothing here imports torch.
"""

from enum import StrEnum
from typing import Any

import msgspec


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn. Defaults are OpenAI's."""

    temperature: float = 1.0
    """0 means greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose mass reaches p."""
    min_p: float = 0.0
    """Keep tokens at least min_p times as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of a token in the output."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence in the output."""
    logit_bias: dict[int, float] = {}
    """Added to the logits of single tokens."""
    seed: int = 0
    """Draws are a function of (seed, choice, position) and nothing else."""
    choice: int = 0
    """Index among the n choices of the API request."""
    repeatable: bool = False
    """The client named the seed: whatever is guessed, the output is the same token for token."""
    logprobs: int | None = None
    """Report the sampled token's log-probability and this many alternatives."""


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the KV of a prompt is: a lease of another worker's engine."""

    lease: str = ""
    """Empty where what was said of the KV is not enough to get it."""
    epoch: str = ""
    """Of that engine."""
    host: str = ""
    port: int = 0
    seconds: float = 0.0
    """How long the lease runs at most."""
    tokens: int = 0
    """Of the prompt, whose KV is there."""
    cached_tokens: int = 0
    """Of them, those that were cached there before."""


class AddRequest(msgspec.Struct, frozen=True, tag="add", omit_defaults=True):
    """Generate from a prompt."""

    id: str
    prompt: list[int]
    max_tokens: int
    """Of the whole output, `output` included; 0 only computes the prompt."""
    sampling: Sampling = Sampling()
    output: list[int] = []
    """Tokens that were generated elsewhere: known from the start, and not reported again."""
    min_tokens: int = 0
    """No stop token is drawn before so many tokens."""
    stop_token_ids: list[int] = []
    """End after one of these (it is reported as the last token)."""
    grammar: str = ""
    """What the output must follow, in llguidance's notation; empty for any text."""
    priority: int = 0
    """Higher is scheduled first."""
    beside: str = ""
    """Id of another request with this prompt: its blocks are shared once it has computed them."""
    prompt_logprobs: int | None = None
    """Report the prompt tokens' log-probabilities, with this many alternatives."""
    salt: bytes = b""
    """Requests with different salts share no KV blocks."""
    adapter: str = ""
    """Name of the adapter that computes it; empty for the base model."""
    deadline: float | None = None
    """Seconds from arrival after which the request is given up, waiting or running."""
    tpot: float | None = None
    """Seconds between two of its tokens: prompts beside it are cut so that steps take no longer."""
    keep: bool = False
    """When it ends, keep the prompt's blocks for another worker."""
    source: Source | None = None
    """Get the prompt's KV from there; what does not come is computed."""


class AddInputs(msgspec.Struct, frozen=True, tag="inputs", omit_defaults=True):
    """Compute inputs, for a model that embeds or scores; no token comes of them."""

    id: str
    inputs: list[list[int]]
    """Token ids of each."""
    seconds: list[int] = []
    """Where each pair's second text begins; empty for single texts."""
    priority: int = 0
    """Higher is computed first."""
    deadline: float | None = None
    """Seconds from arrival after which the request is given up."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget requests and free their blocks; no further output follows for them."""

    ids: list[str]


class Release(msgspec.Struct, frozen=True, tag="release"):
    """End leases: nobody will pull their blocks."""

    leases: list[str]


class LoadAdapter(msgspec.Struct, frozen=True, tag="load-adapter"):
    """Load a LoRA adapter, in the place of the one of this name if there is one."""

    id: str
    name: str
    folder: str


class UnloadAdapter(msgspec.Struct, frozen=True, tag="unload-adapter"):
    """Let no new request name an adapter."""

    name: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the engine process."""


Command = AddRequest | AddInputs | Abort | Release | LoadAdapter | UnloadAdapter | Stop


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    """A stop token (or, decided by the server, a stop string)."""
    LENGTH = "length"
    """max_tokens or the model's context was reached."""
    ABORT = "abort"
    """The engine gave it up: see `Output.error`."""
    DEADLINE = "deadline"
    """Its deadline passed first."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one output position."""

    logprob: float
    """Of the sampled token."""
    top: list[tuple[int, float]]
    """(token id, log-probability), likeliest first."""
    rank: int = 0
    """Of the sampled token; 1 is the likeliest."""


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one step produced for one request."""

    id: str
    tokens: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] = []
    """One per token, when asked for."""
    prompt_logprobs: list[TokenLogprobs] = []
    """Of every prompt token but the first, when asked for; with the first output."""
    cached_tokens: int = 0
    """Prompt tokens taken from the prefix cache; final from the first output on."""
    queue_seconds: float = 0.0
    """Time until first scheduled; set with the first output."""
    error: str = ""
    """For people, with ABORT."""
    vectors: dict[int, bytes] = {}
    """What came of inputs, by their index: float32, little-endian; a score is a single number."""
    kept: dict[str, Any] | None = None
    """Where another worker finds the prompt's blocks, as `kv_transfer_params` tells it."""


class HandoffStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """KV that other workers keep for this one, or this one for others; since the engine's start."""

    leases: int = 0
    """That run now."""
    leased_blocks: int = 0
    """That they keep now."""
    lease_ends: dict[str, int] = {}
    """By `penstock_contract.handoff.LeaseOutcome`."""
    pulls: dict[str, int] = {}
    """By `penstock_contract.handoff.PullOutcome`."""
    pulled_bytes: int = 0
    pull_seconds: float = 0.0


class TierStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """KV that a slower tier keeps, and what it was good for; since the engine's start."""

    queries: int = 0
    """Prompt tokens looked up there: the prefix cache did not have them."""
    hits: int = 0
    """Of them, those whose KV came from there."""
    loads: dict[str, int] = {}
    """By `penstock_contract.tiers.LoadOutcome`."""
    loaded_bytes: int = 0
    load_seconds: float = 0.0
    stored_bytes: int = 0
    skipped: dict[str, int] = {}
    """Blocks, by `penstock_contract.tiers.Skipped`."""
    corrupt: int = 0
    """Files that were not the block that they should have been."""
    used_bytes: int = 0
    """Now."""
    capacity_bytes: int = 0


class Drafted(msgspec.Struct, frozen=True, array_like=True):
    """What a step's guesses were worth."""

    drafts: int
    """Requests that had any."""
    tokens: int
    accepted: list[int]
    """Tokens that were right, by their place in the draft."""


class Stats(msgspec.Struct, frozen=True):
    """The engine's state after a step; counters run from the engine's start."""

    running: int
    waiting: int
    blocks_free: int
    """Empty blocks."""
    blocks_cached: int
    """Unreferenced blocks that hold a reusable prefix."""
    blocks_used: int
    """Blocks of live requests."""
    prefix_queries: int
    """Prompt tokens looked up."""
    prefix_hits: int
    """Prompt tokens found."""
    preemptions: int
    bounded_steps: int
    """Steps whose prompts were cut for the sake of requests that decode."""
    step_seconds: float
    """Duration of this step; 0 when idle."""
    prefill_tokens: int
    """Prompt tokens computed in this step."""
    decode_tokens: int
    """Sequences that decoded in this step."""
    kv_tokens: int = 0
    """Tokens of context that this step's attention read."""
    drafted: Drafted | None = None
    """Of this step, where tokens were guessed."""
    handoff: HandoffStats | None = None
    """None where it is off."""
    tier: TierStats | None = None
    """None where there is none."""
    leaving: str = ""
    """Who was told to end without whom the engine cannot go on, such as a node of its group."""


class Batch(msgspec.Struct, frozen=True, tag="batch"):
    """Everything that one step has to tell."""

    outputs: list[Output]
    stats: Stats


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is loaded, warmed up and has generated a token."""

    epoch: str
    """Random per engine start; cached prefixes never outlive it."""
    num_blocks: int
    block_size: int
    max_model_len: int
    vocab_size: int
    load_seconds: float
    prefix_caching: bool = True
    step_cost: dict[str, float] | None = None
    """Seconds per term of `penstock_contract.step_cost.StepCost`, as measured at start."""
    device: str = "cpu"
    """cpu, or the name of a GPU."""
    kv_cache_dtype: str = "auto"
    """What was asked for, of `attention.stored`'s KV_CACHE_DTYPES."""
    kv_bytes_per_token: int = 0
    """Memory that the KV of a token takes, over all layers."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine cannot start or go on; the process ends after this."""

    message: str


class AdapterChanged(msgspec.Struct, frozen=True, tag="adapter-changed"):
    """Requests may name an adapter from now on, or it cannot be loaded."""

    id: str
    """Of the LoadAdapter."""
    problem: str
    """Empty: it is loaded."""


Event = Ready | Batch | Failed | AdapterChanged
