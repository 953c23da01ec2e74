"""What a spec may ask for and this version does not build."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from penstock_contract.api import Engine, EnginePool, EngineType, InferenceDeployment, Role
from penstock_contract.api.accelerators import of_nvidia
from penstock_contract.api.base import quantity
from penstock_contract.api.engine import (
    Dtype,
    KvCacheDtype,
    SpeculativeMethod,
    Task,
    WeightQuantization,
)
from penstock_operator.manifests.tiers import EPHEMERAL, LEAST, exceeds_limit


class Unsupported(Exception):
    """The spec asks for something that this version does not build; `field` says where."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True)
class _Asked:
    """What the rules below look at."""

    deployment: InferenceDeployment
    pool: EnginePool

    @property
    def engine(self) -> Engine:
        return self.deployment.spec.engine

    @property
    def ours(self) -> bool:
        """Whether Penstock's own engine is to run it."""
        return self.engine.type is EngineType.PENSTOCK

    @property
    def gpus(self) -> int:
        """GPUs of a worker of ours."""
        return self.pool.spec.resources.gpus if self.ours else 0

    @property
    def ranks(self) -> int:
        """Ranks that a worker of ours is divided among."""
        return self.pool.spec.parallelism.tensor if self.ours else 1

    @property
    def adapts(self) -> bool:
        """Whether there are adapters, or is room for them."""
        return bool(self.deployment.spec.model.adapters) or self.engine.lora is not None

    @property
    def quantised(self) -> bool:
        """Whether weights are to be quantised while they are loaded."""
        return self.engine.quantization.weights is not WeightQuantization.NONE

    @property
    def limit(self) -> str:
        """Return the path of the limit that says how many accelerators there are."""
        return self.field(f"resources.limits[{self.pool.spec.resources.device}]")

    def field(self, name: str) -> str:
        """Return the path of a field of the pool."""
        return f"spec.pools[{self.pool.spec.pool}].{name}"


_OUR_KV: Final = (KvCacheDtype.AUTO, KvCacheDtype.BFLOAT16, KvCacheDtype.INT8_PER_TOKEN_HEAD)
"""What our own engine stores KV in."""

_SPREADS = ("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp")
_COPIES = ("--data-parallel", "-dp")
"""vLLM's flags, by what they begin with."""

_GLUED: Final = re.compile(r"(--?[A-Za-z][\w.-]*)\s+(.*)", re.DOTALL)
"""A flag and its value in one argument, as a shell would have parted them."""

Refusals = Iterator[tuple[bool, str, str]]
"""Whether something is refused, the path of the field, and what to write there instead."""


def refuse_unsupported(deployment: InferenceDeployment, pool: EnginePool) -> None:
    """Raise Unsupported for the first setting that the chosen engine cannot do."""
    asked = _Asked(deployment, pool)
    if any(adapter.name == deployment.served_name for adapter in deployment.spec.model.adapters):
        name = f"{deployment.served_name} is the model's own name"
        raise Unsupported("spec.model.adapters", f"{name}: choose another")
    for index, argument in enumerate(asked.engine.extra_args):
        if glued := _GLUED.fullmatch(argument):
            apart = "{}={}".format(*glued.groups())
            fix = f"write {apart}, or two entries: {argument!r} is a single argument"
            raise Unsupported(f"spec.engine.extraArgs[{index}]", fix)
    rules = (
        _task, _numbers, _sparse, _tiers, _speculation, _accelerators, _nodes, _devices, _ranks,
        _pools,
    )  # fmt: skip
    for refused, field, fix in chain.from_iterable(rule(asked) for rule in rules):
        if refused:
            raise Unsupported(field, f"not available in this version; {fix}")


def _task(asked: _Asked) -> Refusals:
    hears = asked.engine.task is Task.TRANSCRIBE
    yield asked.ours and hears, "spec.engine.task", "use engine.type VLLM for models that hear"
    split = asked.pool.spec.role is not Role.UNIFIED
    yield hears and split, asked.field("role"), "use Unified for models that hear"


def _numbers(asked: _Asked) -> Refusals:
    float16 = asked.engine.dtype is Dtype.FLOAT16
    yield asked.ours and float16, "spec.engine.dtype", "use auto or bfloat16"
    weights, quantised = "spec.engine.quantization.weights", asked.quantised
    ready_made = "vLLM reads checkpoints that are quantised already: use none"
    yield not asked.ours and quantised, weights, ready_made
    pooling = asked.ours and asked.engine.task.is_pooling
    yield pooling and quantised, weights, "use none with a model that embeds or scores"
    yield bool(asked.gpus) and quantised, weights, "use none where a pool has GPUs"
    yield from _kv(asked)


def _kv(asked: _Asked) -> Refusals:
    kept, field = asked.engine.kv_cache_dtype, "spec.engine.kvCacheDtype"
    foreign = f"use {', '.join(_OUR_KV)}, or engine.type VLLM"
    yield asked.ours and kept not in _OUR_KV, field, foreign
    given = asked.ours and kept is not KvCacheDtype.AUTO
    yield given and asked.engine.task.is_pooling, field, "use auto: its model keeps no KV"
    yield given and bool(asked.gpus), field, "use auto where a pool has GPUs, or engine.type VLLM"


def _sparse(asked: _Asked) -> Refusals:
    if asked.engine.sparse_attention is None:
        return
    field, off = "spec.engine.sparseAttention", "leave it out"
    yield not asked.ours, field, f"{off} with vLLM, or use engine.type Penstock"
    yield bool(asked.gpus), field, f"{off} where a pool has GPUs"
    yield asked.engine.task.is_pooling, field, f"{off} with a model that embeds or scores"
    bytes_kept = asked.engine.kv_cache_dtype is KvCacheDtype.INT8_PER_TOKEN_HEAD
    yield bytes_kept, field, f"{off}, or use kvCacheDtype auto or bfloat16"
    yield bool(asked.engine.kv_tiers), field, f"{off} with spec.engine.kvTiers"
    split = asked.pool.spec.role is not Role.UNIFIED
    yield split, field, f"{off} with Prefill and Decode pools"
    yield asked.ranks > 1, field, f"{off} beside {asked.field('parallelism.tensor')} above 1"


def _tiers(asked: _Asked) -> Refusals:
    tiers, field = asked.engine.kv_tiers, "spec.engine.kvTiers"
    pooling = "use none with a model that embeds or scores, which keeps no KV"
    yield asked.engine.task.is_pooling and bool(tiers), field, pooling
    own = "vLLM's own begin with host memory, and bound no disk: use spec.engine.extraArgs"
    yield not asked.ours and bool(tiers), field, own
    yield bool(asked.gpus) and bool(tiers), field, "use none where a pool has GPUs"
    small = any(quantity(tier.capacity) < LEAST for tier in tiers)
    yield small, f"{field}.capacity", "use 64Mi or more"
    disk = asked.field(f"resources.limits[{EPHEMERAL}]")
    room = "raise it above the capacity of spec.engine.kvTiers, by a sixteenth and 64Mi"
    yield any(exceeds_limit(tier, asked.pool) for tier in tiers), disk, room


def _speculation(asked: _Asked) -> Refusals:
    field = "spec.engine.speculative.method"
    wanted = asked.engine.speculative
    ready_made = wanted.draft is not None and wanted.draft.weights is not WeightQuantization.NONE
    none = "vLLM reads drafts that are quantised already: use none"
    yield not asked.ours and ready_made, "spec.engine.speculative.draft.weights", none
    vllm = wanted.method in (SpeculativeMethod.EAGLE, SpeculativeMethod.MTP)
    yield asked.ours and vllm, field, "use eagle3, draft, ngram or none, or engine.type VLLM"
    eagle = asked.ours and wanted.method is SpeculativeMethod.EAGLE3
    split = asked.pool.spec.role is not Role.UNIFIED
    yield eagle and split, field, "use draft, ngram or none with Prefill and Decode pools"
    tiers = bool(asked.engine.kv_tiers)
    yield eagle and tiers, field, "use draft, ngram or none with spec.engine.kvTiers"
    draft = asked.ours and wanted.method.has_draft
    on_cpus = "drafts are computed on CPUs: use ngram or none where a pool has GPUs"
    yield bool(asked.gpus) and draft, field, on_cpus
    alone = "use ngram or none with parallelism.tensor above 1"
    yield draft and asked.ranks > 1, field, alone


def _accelerators(asked: _Asked) -> Refusals:
    resources = asked.pool.spec.resources
    claimed = "use resources.limits for its GPUs, or engine.type VLLM"
    yield asked.ours and bool(resources.claims), asked.field("resources.claims"), claimed
    one = "use accelerators of one kind, the same for a pool's replicas"
    yield len(resources.devices) > 1, asked.limit, one
    other = bool(resources.devices) and not of_nvidia(resources.device)
    ours = "use GPUs of NVIDIA's, or engine.type VLLM and its image for these"
    yield asked.ours and other, asked.limit, ours
    image = "name vLLM's image for these in spec.engine.image: the default one is for NVIDIA's GPUs"
    yield other and asked.engine.image is None, asked.limit, image


def _nodes(asked: _Asked) -> Refusals:
    over, field = asked.pool.spec.parallelism, asked.field("parallelism.nodes")
    if over.nodes == 1 or _says(asked.engine, _SPREADS):
        return
    uneven = (over.tensor if asked.ours else over.tensor * over.pipeline) % over.nodes != 0
    product = "tensor" if asked.ours else "tensor × pipeline"
    yield uneven, field, f"use a divisor of {product}, or 1: every node has as many ranks"
    copies = not asked.ours and _says(asked.engine, _COPIES)
    yield copies, field, "use 1 with --data-parallel-size in spec.engine.extraArgs"


def _devices(asked: _Asked) -> Refusals:
    adapters, over = asked.adapts, asked.pool.spec.parallelism
    limits, where = asked.limit, asked.field("parallelism")
    here = over.tensor // over.nodes
    each = f"use {here}, one for each rank of parallelism.tensor"
    each += " on a node" if over.nodes > 1 else ""
    yield bool(asked.gpus) and asked.gpus != here, limits, each
    vllm = "where a pool has GPUs, use engine.type VLLM"
    yield bool(asked.gpus) and adapters, "spec.model.adapters", vllm
    yield asked.ours and over.pipeline > 1, where, "use pipeline: 1, or engine.type VLLM"
    spread = not asked.ours and _leaves_or_lacks_gpus(asked.deployment, asked.pool)
    has = f"{limits} has {asked.pool.spec.resources.gpus}"
    has += f" on each of {over.nodes} nodes" if over.nodes > 1 else ""
    yield spread, where, f"use as many GPUs as tensor × pipeline: {has}"


def _ranks(asked: _Asked) -> Refusals:
    """Refuse what a worker of ours cannot do where it is divided among ranks."""
    if asked.ranks == 1:
        return
    alone = f"beside {asked.field('parallelism.tensor')} above 1"
    yield asked.quantised, "spec.engine.quantization.weights", f"use none {alone}"
    yield bool(asked.engine.kv_tiers), "spec.engine.kvTiers", f"use none {alone}"
    yield asked.engine.task.is_pooling, "spec.engine.task", f"use Generate {alone}"
    yield asked.adapts, "spec.model.adapters", f"use none {alone}, or engine.type VLLM"
    split = asked.pool.spec.role is not Role.UNIFIED
    yield split, asked.field("role"), f"use Unified {alone}"


def _pools(asked: _Asked) -> Refusals:
    # A pulled block is found by its name, and these are the prefix cache's.
    nameless = asked.pool.spec.role is not Role.UNIFIED and not asked.engine.prefix_caching
    field = "spec.engine.prefixCaching"
    yield asked.ours and nameless, field, "use true with Prefill and Decode pools"
    # Several pools would be on trial at once, each with a revision and a share of its own, and a
    # prefill worker of one revision would feed decode workers of another.
    spec = asked.deployment.spec
    several = spec.rollout.canary is not None and len(spec.pools) > 1
    yield several, "spec.rollout.canary", "use it with a single pool"
    stays = spec.autoscaling.scale_to_zero is not None and not any(p.scaling for p in spec.pools)
    sized = "use spec.pools[].scaling in place of replicas, which are never stopped"
    yield stays, "spec.autoscaling.scaleToZero", sized


def _leaves_or_lacks_gpus(deployment: InferenceDeployment, pool: EnginePool) -> bool:
    """Whether vLLM has other than the GPUs it is spread over; data parallelism takes them, too.

    Not judged where flags of the user's own, which win, say how it is spread.
    """
    engine, over = deployment.spec.engine, pool.spec.parallelism
    gpus = pool.spec.resources.gpus * over.nodes
    if not gpus or _says(engine, _SPREADS):
        return False
    needed = over.tensor * over.pipeline
    return (gpus % needed if _says(engine, _COPIES) else gpus - needed) != 0


def _says(engine: Engine, flags: tuple[str, ...]) -> bool:
    """Whether the user's own arguments have one of some flags, by what these begin with."""
    said = (argument.replace("_", "-") for argument in engine.extra_args)
    return any(argument.startswith(flags) for argument in said)
