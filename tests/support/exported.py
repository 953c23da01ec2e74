"""A made-up fleet that exports metrics like real ones: for the autoscaler, scrape by scrape."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

from penstock_contract.api import Role
from penstock_contract.step_cost import StepCost, StepMoments, Totals
from penstock_operator.autoscaling.scrape import Scrape, Series
from penstock_operator.autoscaling.topology import PoolTopology, Topology

MODEL = "m"
GATEWAY = "gateway-1"
COST = StepCost(step=0.015, prefill_token=1e-4, sequence=1e-4, kv_token=1e-7)
BLOCKS, BLOCK = 25_000, 16
GIVEN, TAKEN = 1000.0, 200.0


@dataclass
class Exported:
    """A gateway and workers under `rate` requests per second, each of 1,000 tokens in, 200 out.

    Time is that of the test; nothing here knows of a clock.
    """

    workers: list[str] = field(default_factory=lambda: ["worker-1", "worker-2"])
    time: float = 1_000_000.0
    rate: float = 0.0
    queued: float = 0.0
    arrivals: float = 0.0
    duration: float = 0.0
    served: dict[str, float] = field(default_factory=dict)
    moments: dict[str, StepMoments] = field(default_factory=dict)
    totals: dict[str, Totals] = field(default_factory=dict)

    def pass_time(self, seconds: float) -> None:
        """Let requests arrive and be served."""
        self.time += seconds
        self.arrivals += self.rate * seconds
        self.duration += self.rate * seconds * self.residence
        for worker in self.workers:
            requests = self.rate * seconds / len(self.workers)
            self.served[worker] = self.served.get(worker, 0.0) + requests
            self._step(worker, requests)

    def _step(self, worker: str, requests: float) -> None:
        """Add the steps of so many requests, one after the other with eight beside each other."""
        sums = self.moments.setdefault(worker, StepMoments())
        count, took, prompts, tokens, context = astuple(self.totals.get(worker, Totals()))
        for number in range(round(requests * TAKEN / 8)):
            prefill = GIVEN * 8 / TAKEN * (number % 2) * 2
            sequences = 4.0 + 8 * (number % 3 == 0)
            kv = sequences * (GIVEN + TAKEN / 2) * (1 + number % 5 / 4)
            seconds = COST.seconds(prefill, sequences, kv)
            sums.add(seconds, prefill, sequences, kv)
            count, took = count + 1, took + seconds
            prompts, tokens, context = prompts + prefill, tokens + sequences, context + kv
        self.totals[worker] = Totals(count, took, prompts, tokens, context)

    @property
    def residence(self) -> float:
        """Return the seconds that a request stays."""
        return TAKEN * 0.02

    @property
    def in_flight(self) -> float:
        """Return the requests in the workers."""
        return self.rate * self.residence

    def scrapes(self) -> dict[str, Scrape]:
        """Return what everybody exports now."""
        return {GATEWAY: self.gateway(), **{w: self.worker(w) for w in self.workers}}

    def gateway(self) -> Scrape:
        """Return the gateway's scrape."""
        model = {"model": MODEL}
        return Scrape(
            self.time,
            _series(
                ("penstock_gateway_arrivals_total", model, self.arrivals),
                ("penstock_gateway_queued", model, self.queued),
                ("penstock_gateway_in_flight", model, self.in_flight),
                ("penstock_gateway_request_duration_seconds_sum", model, self.duration),
                ("penstock_gateway_request_duration_seconds_count", model, self.arrivals),
            ),
        )

    def worker(self, name: str) -> Scrape:
        """Return a worker's scrape."""
        served = self.served.get(name, 0.0)
        running = self.in_flight / len(self.workers)
        moments = self.moments.get(name, StepMoments()).sums
        steps = self.totals.get(name, Totals())
        shape = {"engine": "0", "block_size": str(BLOCK), "num_gpu_blocks": str(BLOCKS)}
        cost = {
            "step": COST.step,
            "prefill_token": COST.prefill_token,
            "sequence": COST.sequence,
            "kv_token": COST.kv_token,
        }
        used = running * (GIVEN + TAKEN / 2) / (BLOCKS * BLOCK)
        return Scrape(
            self.time,
            _series(
                ("vllm:num_requests_running", _VLLM, running),
                ("vllm:num_requests_waiting", _VLLM, 0.0),
                ("vllm:kv_cache_usage_perc", _VLLM, used),
                ("vllm:cache_config_info", shape, 1.0),
                ("vllm:request_prompt_tokens_sum", _VLLM, served * GIVEN),
                ("vllm:request_prompt_tokens_count", _VLLM, served),
                ("vllm:request_prefill_kv_computed_tokens_sum", _VLLM, served * GIVEN),
                ("vllm:request_prefill_kv_computed_tokens_count", _VLLM, served),
                ("vllm:request_generation_tokens_sum", _VLLM, served * TAKEN),
                ("vllm:request_generation_tokens_count", _VLLM, served),
                ("penstock_worker_step_seconds_count", _OWN, steps.steps),
                ("penstock_worker_step_seconds_sum", _OWN, steps.seconds),
                ("penstock_worker_step_tokens_total", {**_OWN, "kind": "prefill"}, steps.prefill),
                ("penstock_worker_step_tokens_total", {**_OWN, "kind": "decode"}, steps.sequences),
                ("penstock_worker_step_context_tokens_total", _OWN, steps.kv),
                *(
                    ("penstock_worker_step_moments_total", {**_OWN, "product": product}, value)
                    for product, value in moments.items()
                ),
                *(
                    ("penstock_worker_step_cost_seconds", {**_OWN, "term": term}, value)
                    for term, value in cost.items()
                ),
                ("penstock_worker_load_seconds", _OWN, 20.0),
            ),
        )

    def topology(self, desired: int | None = None) -> Topology:
        """Return who is there."""
        count = len(self.workers)
        pool = PoolTopology(
            "default",
            Role.UNIFIED,
            desired=count if desired is None else desired,
            workers=tuple(self.workers),
            ready=count,
        )
        return Topology(MODEL, (GATEWAY,), (pool,))


_OWN = {"model_name": MODEL}
_VLLM = {"model_name": MODEL, "engine": "0"}


def _series(*samples: tuple[str, Mapping[str, str], float]) -> dict[Series, float]:
    return {(name, frozenset(labels.items())): value for name, labels, value in samples}


def exposition(scrape: Scrape) -> str:
    """Return a scrape as `/metrics` says it."""
    lines = []
    for (name, labels), value in scrape.values.items():
        inside = ",".join(f'{key}="{text}"' for key, text in sorted(labels))
        lines.append(f"{name}{{{inside}}} {value}")
    return "\n".join(lines) + "\n"
