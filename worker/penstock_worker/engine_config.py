"""Settings of an engine process; the server writes them, the engine reads them. No torch here."""

import msgspec

from penstock_contract import group
from penstock_contract.step_cost import StepCost


class KVEventsConfig(msgspec.Struct, frozen=True):
    """Where and how changes of the prefix cache are published."""

    endpoint: str
    """Of the PUB socket, like tcp://0.0.0.0:5557."""
    replay_endpoint: str
    """Of the ROUTER socket; empty for none."""
    encoding: str
    """maps (vLLM's) or arrays (older vLLM's, SGLang's, llm-d's)."""
    worker: str
    """Unique over time, such as the pod's uid."""
    model: str
    """Served name."""
    buffer: int = 10_000
    """Messages kept for replays."""


class TransferConfig(msgspec.Struct, frozen=True):
    """Where an engine serves its KV to other workers, and for how long."""

    host: str
    """To listen on."""
    port: int
    """0 for any that is free."""
    advertised_host: str
    """Where other workers reach it."""
    lease_seconds: float
    worker: str
    """Unique over time, such as the pod's uid."""


class TierConfig(msgspec.Struct, frozen=True):
    """A tier below the engine's own memory."""

    folder: str
    """Where blocks are kept as files."""
    capacity: int
    """Bytes that they may take."""


class SimulationConfig(msgspec.Struct, frozen=True):
    """How long the steps of an engine take that computes nothing, and what its cache would hold."""

    cost: StepCost = StepCost(step=0.01, prefill_token=1e-4, sequence=2e-4, kv_token=0.0)
    kv_tokens: int = 100_000
    kv_bandwidth: float = 1.25e9
    """Bytes per second at which KV of other workers arrives."""


class GroupConfig(msgspec.Struct, frozen=True):
    """The nodes that are one engine, and which one this is; see `penstock_contract.group`."""

    nodes: int = 1
    node: int = 0
    host: str = ""
    """Where node 0 waits for the others."""
    port: int = group.PORT


class EngineConfig(msgspec.Struct, frozen=True):
    """Settings of an engine process."""

    model: str
    """Folder of the checkpoint."""
    task: str = "Generate"
    """What it is for: Generate, Embed or Score (`penstock_contract.api.engine.Task`)."""
    dtype: str = "auto"
    """float32, bfloat16, or auto: the checkpoint's own where that is fast, else float32."""
    quantization: str = "none"
    """Of the weights: none, int8 (dynamic W8A8) or int4 (weight-only, in groups)."""
    kv_cache_dtype: str = "auto"
    """How KV is stored, one of `attention.stored`'s KV_CACHE_DTYPES; auto: in dtype."""
    sparse_attention_tokens: int = 0
    """That a token of an answer reads, rounded up to whole blocks; 0: all (`sparsity`)."""
    device: str = "auto"
    """cpu, cuda, or auto: a GPU where PyTorch finds one."""
    kernels: str = "auto"
    """On a CPU native, torch, or auto: native where they were compiled. On a GPU Triton's."""
    max_model_len: int | None = None
    """Default: the model's own limit."""
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    prefix_caching: bool = True
    adapters: dict[str, str] = {}
    """Folders of LoRA adapters by the names that they are served under."""
    max_adapters: int = 0
    """At a time, where more of them may be loaded at run time; 0: they may not."""
    max_adapter_rank: int = 0
    """Of those that are loaded at run time; 0 for any."""
    kv_cache_bytes: int | None = None
    """Of each rank. Default on a CPU: enough for max_num_seqs full contexts, and for all ranks at
    most 1 GiB or half of the memory that weights leave, one context if that is more; on a GPU: what
    gpu_memory_utilization leaves."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that weights, steps and KV take together."""
    speculative: str = "none"
    """Who guesses tokens: none, ngram, draft or eagle3."""
    speculative_model: str = ""
    """Folder of the checkpoint of the draft or head."""
    speculative_quantization: str = "none"
    """Of the draft's weights."""
    speculative_tokens: int = 4
    """Guessed in a step, at most."""
    threads: int | None = None
    """Compute threads; default: torch's choice. Ranks share them."""
    tensor_parallel_size: int = 1
    """Ranks among which the model is divided: processes, each with a GPU or a share of the CPU."""
    group: GroupConfig = GroupConfig()
    """Nodes among which the ranks are divided."""
    kv_events: KVEventsConfig | None = None
    transfer: TransferConfig | None = None
    """None: no KV is handed over."""
    tier: TierConfig | None = None
    """None: what leaves the prefix cache is forgotten."""
    simulation: SimulationConfig | None = None
    """Set where nothing is to be computed."""
    self_benchmark: bool = False
    """Measure at start what a step costs."""

    @property
    def local_ranks(self) -> int:
        """Ranks of this node: of all nodes the same number."""
        return self.tensor_parallel_size // self.group.nodes
