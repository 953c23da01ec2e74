"""How the engine of an InferenceDeployment runs; all of it is part of the rollout hash."""

import itertools
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from penstock_contract.api.base import ApiModel, Quantity, list_map, rules
from penstock_contract.api.model import ModelUri
from penstock_contract.tiers import Medium


class EngineType(StrEnum):
    """Which engine the workers run; both speak the same contract on the wire."""

    PENSTOCK = "Penstock"
    VLLM = "VLLM"


class Task(StrEnum):
    """What a model is for: text, vectors of texts, scores of pairs, or the text of recordings."""

    AUTO = "Auto"
    GENERATE = "Generate"
    EMBED = "Embed"
    SCORE = "Score"
    TRANSCRIBE = "Transcribe"

    @property
    def is_pooling(self) -> bool:
        """Whether it is known to compute inputs only, and so keeps no KV."""
        return self in (Task.EMBED, Task.SCORE)


class Dtype(StrEnum):
    """Compute type; auto chooses from the device."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class KvCacheDtype(StrEnum):
    """What KV is stored in, in vLLM's words; auto is what is computed in.

    int8_per_token_head is bytes, with a scale for each token and head.
    """

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FP8 = "fp8"
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    INT8_PER_TOKEN_HEAD = "int8_per_token_head"  # noqa: S105 - no password


class WeightQuantization(StrEnum):
    """How weights are stored: as computed, in 8 bits (W8A8), or in 4 (weight-only, in groups)."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


class Quantization(ApiModel):
    """Lower precision for speed and room."""

    weights: WeightQuantization = WeightQuantization.NONE
    """Format of the weights; none: as they are stored."""


class SpeculativeMethod(StrEnum):
    """How draft tokens are proposed; ngram looks up how the text went on before, draft asks a
    smaller model, eagle and eagle3 a head that was trained on the model's states, mtp the heads in
    the model's own checkpoint."""

    NONE = "none"
    NGRAM = "ngram"
    DRAFT = "draft"
    EAGLE = "eagle"
    EAGLE3 = "eagle3"
    MTP = "mtp"

    @property
    def is_head(self) -> bool:
        """Whether it needs a checkpoint that is no model by itself."""
        return self in (SpeculativeMethod.EAGLE, SpeculativeMethod.EAGLE3)

    @property
    def has_draft(self) -> bool:
        """Whether it needs a checkpoint beside the model's."""
        return self is SpeculativeMethod.DRAFT or self.is_head


class Draft(ApiModel):
    """What guesses what the model will say: a smaller model with the same tokenizer, or a head."""

    uri: ModelUri
    """Where it comes from, as for a model."""
    revision: Annotated[str, Field(max_length=253)] = "main"
    """Branch, tag or commit."""
    weights: WeightQuantization = WeightQuantization.NONE
    """Format of its weights; none: as they are stored."""


class Speculative(ApiModel):
    """Speculative decoding."""

    model_config = rules(
        (
            "(self.method in ['draft', 'eagle', 'eagle3']) == has(self.draft)",
            "methods draft, eagle and eagle3 need a draft, and others have none",
        ),
    )

    method: SpeculativeMethod = SpeculativeMethod.NONE
    """Proposer of draft tokens."""
    draft: Draft | None = None
    """The model or head that guesses, with methods draft, eagle and eagle3."""
    num_tokens: Annotated[int, Field(ge=1, le=32)] = 4
    """Draft tokens per step, at most."""


class Lora(ApiModel):
    """Room for adapters that come and go while a worker serves."""

    max_adapters: Annotated[int, Field(ge=1, le=256)] = 64
    """Adapters that a worker keeps in memory at a time."""
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] | None = None
    """Largest rank; default: any, and with vLLM 16. vLLM reserves memory for it."""
    max_per_step: Annotated[int, Field(ge=1, le=256)] = 8
    """vLLM only: adapters that one step mixes; GPU memory is reserved for so many."""


class SparseAttention(ApiModel):
    """How much of a long context answers read."""

    tokens: Annotated[int, Field(ge=512, le=16_777_216)]
    """Tokens of the context that a token of an answer reads in most layers, rounded up to whole
    blocks: the first, the last, and those that can matter most to it. Prompts read everything."""


class KvTier(ApiModel):
    """Where KV is kept that leaves the prefix cache."""

    medium: Medium
    """What it is made of."""
    capacity: Quantity
    """What it may hold, in each worker."""
    claim_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """A PersistentVolumeClaim, which outlives pods and may be shared; default: the pod's own."""


class Engine(ApiModel):
    """How the engine runs; every field is part of the rollout hash."""

    model_config = rules(
        (
            "self.kvTiers.size() == 0 || self.prefixCaching",
            "kvTiers needs prefixCaching: blocks are found by their names",
        ),
        (
            "self.kvTiers.size() == 0 || !(self.task in ['Embed', 'Score'])",
            "kvTiers is for models that generate: others keep no KV",
        ),
    )

    type: EngineType = EngineType.PENSTOCK
    """Penstock's own engine, or vLLM behind the same gateway."""
    task: Task = Task.AUTO
    """Auto goes by the model's files. A stated one is held everywhere, and sizes pools better."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Container image; default: the installation's for engine and device. vLLM: 0.18 or later."""
    dtype: Dtype = Dtype.AUTO
    """Type that is computed in; auto goes by what the checkpoint is stored in."""
    kv_cache_dtype: KvCacheDtype = KvCacheDtype.AUTO
    """Type that KV is stored in; in 8 bits twice as many tokens fit as in bfloat16."""
    quantization: Quantization = Quantization()
    """Lower precision of weights, for speed and memory."""
    max_model_len: Annotated[int, Field(ge=16, le=16_777_216)] | None = None
    """Longest prompt + output in tokens; default: the model's own limit."""
    block_size: Literal[8, 16, 32, 64, 128] = 16
    """Tokens per KV block."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Sequences that a worker runs at once; more wait at the gateway."""
    max_num_batched_tokens: Annotated[int, Field(ge=16, le=1_048_576)] = 8192
    """Tokens of prompts and answers that one step computes at most."""
    sparse_attention: SparseAttention | None = None
    """Answers read only the blocks of KV that can matter (Penstock's engine, on CPUs); default: all
    of them."""
    prefix_caching: bool = True
    """Reuse KV blocks of equal prefixes."""
    kv_tiers: Annotated[
        list[KvTier], Field(max_length=1, json_schema_extra=list_map("medium"))
    ] = []
    """Slower tiers below the prefix cache; blocks come back from them by copy."""
    speculative: Speculative = Speculative()
    """Guess tokens and check several at once; what is said stays the same, or as likely."""
    lora: Lora | None = None
    """Room for adapters; default: some where `spec.model.adapters` has any that come and go. To set
    it makes workers ready for the first of them."""
    extra_args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = []
    """Appended to the engine's command line."""

    @property
    def parsers(self) -> tuple[str, ...]:
        """vLLM's parsers of answers that `extraArgs` name; a file of flags may name any."""
        words = [word for argument in self.extra_args for word in argument.split("=", 1)]
        return tuple(
            value for flag, value in itertools.pairwise(words) if flag.replace("_", "-") in _PARSERS
        )


_PARSERS: Final = ("--tool-call-parser", "--reasoning-parser", "--config")
