"""What a simulated pool is made of, what its metrics say, and what a run of it did."""

from dataclasses import dataclass, field

from penstock_operator.scaling.curve import ServiceCurve
from penstock_operator.simulation.replica import Job


@dataclass(frozen=True)
class Setup:
    """One simulated pool. Times are in seconds."""

    curve: ServiceCurve
    ttft: float = 2.0
    tpot: float = 0.1
    """Objectives, for each request."""
    in_order: bool = True
    """The gateway keeps prompts back and lets those go first that can be in time, as Penstock's
    does; else it hands each over as it comes, as other gateways do."""
    patience: float = 30.0
    """That the gateway lets a request wait; nobody is refused here, only overtaken less."""
    cold_start: float = 60.0
    interval: float = 5.0
    """Between two samples, and two decisions."""
    metric_lag: float = 10.0
    """From a sample to the decision that sees it."""
    overhead: float = 0.0
    """Of serving a request, apart from steps: HTTP, tokenising, routing."""
    pull: float = 0.005
    pull_token: float = 1.3e-5
    """Of handing a prompt's KV over to this pool, and for each of its tokens (320 KiB each at
    25 GB/s)."""
    chunk_tokens: int = 1024
    stall_free: bool = True
    """Beside decoding, prompts get what it leaves of the TPOT objective, as in Penstock's worker;
    vLLM computes whole chunks."""
    max_sequences: int = 256
    min_replicas: int = 1
    max_replicas: int = 64


@dataclass(frozen=True)
class Sample:
    """What the metrics of a pool say at one moment. Totals are counters since the start."""

    time: float
    desired: int
    ready: int
    starting: int
    draining: int
    arrivals: int
    arrived_tokens: int
    queued: int
    queued_tokens: int
    """Prompt tokens that wait for a place: at the gateway, in front of the first pool."""
    prefill_backlog: int
    """Prompt tokens that wait in replicas."""
    running: int
    """Sequences that decode."""
    held: int
    """Requests in replicas, prefilling ones included."""
    kv_tokens: int
    """KV tokens promised: a simulated replica keeps room for the whole of a request."""
    completed: int
    late: int
    """Completed outside their objectives."""
    late_ttft: int
    """Outside that of the first token."""
    late_tpot: int
    """Outside that of the tokens after it."""
    completed_input: int
    completed_output: int
    steps: int
    busy_seconds: float
    prefill_tokens: int
    sequence_steps: int
    context_steps: float


@dataclass
class Outcome:
    """What a run did with a pool."""

    jobs: list[Job] = field(default_factory=list)
    replica_seconds: float = 0.0
    starts: int = 0
    samples: list[Sample] = field(default_factory=list)
