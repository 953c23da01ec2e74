"""The simulated deployment: a trace goes through one Unified pool, or through Prefill and Decode.

Everything that a scaler may see is in a pool's `Sample`; it is taken at fixed times and handed on
after the metric lag.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf

from penstock_operator.simulation.pool import Pool
from penstock_operator.simulation.replica import Job
from penstock_operator.simulation.setup import Outcome, Sample, Setup
from penstock_operator.simulation.trace import Arrival

BLOCK = 16
"""Tokens of a KV block: whole blocks are handed over, the rest is computed with the first token."""

Decide = Callable[[Sample], int]
"""From what is seen of a pool to the number of replicas wanted."""
DecideAll = Callable[[Sequence[Sample]], Sequence[int]]
"""The same for all pools together."""


class Fleet:
    """One Unified pool under one scaling policy."""

    def __init__(self, setup: Setup, replicas: int) -> None:
        self._stages = Stages([setup], [replicas])

    def run(self, trace: Iterable[Arrival], decide: Decide) -> Outcome:
        """Play a trace to its last completion."""
        return self._stages.run(trace, lambda seen: [decide(seen[0])])[0]


class Stages:
    """A Unified pool; or a Prefill and a Decode pool, through which every request goes in turn.

    Args:
        setups: of the pools, in the order of the requests' way; the first one's lag and interval
            are everybody's.
        replicas: of each pool at the start.
    """

    def __init__(self, setups: Sequence[Setup], replicas: Sequence[int]) -> None:
        self._setups = setups
        self._pools = [Pool(*pool) for pool in zip(setups, replicas, strict=True)]
        self._pulls: list[tuple[float, int, Job]] = []
        """Prompts on their way from the first pool to the second."""
        self._serial = 0

    def run(self, trace: Iterable[Arrival], decide: DecideAll) -> list[Outcome]:
        """Play a trace to its last completion; return what each pool did.

        The last pool's requests are the trace's; those of a pool before it end with their prompt.
        """
        seen: deque[list[Sample]] = deque()
        arrivals = iter(trace)
        arrival = next(arrivals, None)
        first, last = self._pools[0], self._pools[-1]
        overhead, lag = self._setups[0].overhead, self._setups[0].metric_lag
        tick = now = 0.0
        while arrival is not None or self._pulls or any(pool.busy for pool in self._pools):
            arrives = arrival.time + overhead if arrival is not None else inf
            pulled = self._pulls[0][0] if self._pulls else inf
            wakes = first if first.next_wake <= last.next_wake else last
            starts = first if first.next_start <= last.next_start else last
            ends, serves = wakes.next_wake, starts.next_start
            now = min(ends, pulled, arrives, serves, tick)
            if now == ends:
                self._hand_over(wakes.wake(), now)
            elif now == pulled:
                self._pools[1].offer(heapq.heappop(self._pulls)[2], now)
            elif now == arrives and arrival is not None:
                self._pools[0].offer(self._job(arrival), now)
                arrival = next(arrivals, None)
            elif now == serves:
                starts.start()
            else:
                seen.append([pool.sample(now) for pool in self._pools])
                while seen and seen[0][0].time <= now - lag:
                    self._resize(decide(self._present(seen.popleft())), now)
                tick += self._setups[0].interval
        for pool in self._pools:
            pool.account(now)
        return [pool.outcome for pool in self._pools]

    def _job(self, arrival: Arrival) -> Job:
        whole = Job(arrival.time, arrival.input_tokens, arrival.output_tokens)
        if len(self._pools) == 1:
            return whole
        return Job(arrival.time, arrival.input_tokens, 1, then=whole)

    def _hand_over(self, done: Iterable[Job], now: float) -> None:
        """Send the KV of prompts on; what is not a whole block is computed where it arrives."""
        for job in done:
            if job.then is None:
                continue
            whole, setup = job.then, self._setups[1]
            whole.computed = (whole.input_tokens - 1) // BLOCK * BLOCK
            self._serial += 1
            time = now + setup.pull + setup.pull_token * whole.computed
            heapq.heappush(self._pulls, (time, self._serial, whole))

    def _present(self, samples: list[Sample]) -> list[Sample]:
        """Metrics lag; sizes come from the API server and do not."""
        return [
            replace(sample, **pool.sizes())
            for sample, pool in zip(samples, self._pools, strict=True)
        ]

    def _resize(self, wanted: Sequence[int], now: float) -> None:
        for pool, size in zip(self._pools, wanted, strict=True):
            pool.resize(size, now)
