"""Ranks workers for a request, and follows what becomes of it at the one that gets it.

It knows what passes through this gateway, and what sibling processes tell; it scrapes nobody.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from penstock_contract.fleet import FleetWorker
from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.affinity import Sessions, hash_key, session_digest
from penstock_gateway.routing.observation import Observation, observation_of
from penstock_gateway.routing.outliers import ENOUGH, outliers
from penstock_gateway.routing.policies import rank_by
from penstock_gateway.routing.policy import Candidate, Choice
from penstock_gateway.routing.prefix_index import Match, PrefixIndex
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.speed import TYPICAL_OUTPUT, Speed
from penstock_gateway.routing.ticket import Prediction, Prompt, Ticket
from penstock_gateway.routing.unseen_prompts import UnseenPrompts
from penstock_gateway.routing.worker_load import Load, Tally

_NOTHING: Final = Match(0, 0)
_UNKNOWN: Final = PromptUsage()


class Router:
    """Loads, breakers and the prefix index, brought together for a decision (`policy` makes it)."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._loads: dict[str, Load] = {}
        self._sessions = Sessions()
        self._numbers = itertools.count()
        self._turns: Counter[str] = Counter()
        """Decisions by deployment."""
        self._unseen = UnseenPrompts()

    def keep_only(self, workers: Iterable[str]) -> None:
        """Forget workers that are gone."""
        alive = set(workers)
        for gone in [worker for worker in self._loads if worker not in alive]:
            del self._loads[gone]
            self._index.forget(gone)

    def profile(
        self,
        worker: str,
        speed: Speed | None,
        kv_tokens: int | None,
        cost: StepCost | None = None,
    ) -> None:
        """Take over what a worker says of itself: how fast it is, how much KV it has room for."""
        load = self._load(worker)
        load.cost = cost
        if speed is not None:
            load.speed.believe(speed)
            load.prompt_token = speed.token
        if kv_tokens:
            load.kv_tokens = float(kv_tokens)
            self._index.reaches(worker, int(kv_tokens * load.bytes_per_token))

    def rank(
        self,
        workers: Iterable[FleetWorker],
        prompt: Prompt,
        *,
        tie: float,
        now: float,
        policy: str = "PrefixAware",
        preferred: frozenset[str] | None = None,
        most: int = sys.maxsize,
    ) -> list[Choice]:
        """Return the workers, best first: preferred ones (None: all), others, then broken ones.

        Where fewer are wanted (`most`), at least so many come of those that work.

        A worker whose breaker is open comes last rather than never: with nothing better at hand, an
        attempt costs less than a refusal.
        """
        self._unseen.let_go(self._loads, now)
        matched = self._index.match(prompt.keys) if prompt.keys else {}
        session = self._sessions.worker(prompt)
        healthy: list[Candidate] = []
        broken: list[Candidate] = []
        deployment = ""
        for worker in workers:
            name, deployment = worker.id, worker.deployment
            load = self._loads.get(name) or self._load(name)
            candidate = load.candidate
            candidate.speed = load.speed.speed
            candidate.resident = len(load.kv) + load.others_resident
            candidate.outstanding = load.outstanding + load.others_outstanding
            candidate.kv_free = load.kv_tokens - load.kv_used - load.others_kv
            candidate.recent = load.recently(now)
            candidate.session = name == session
            candidate.preferred = preferred is None or name in preferred
            match = matched.get(name, _NOTHING)
            candidate.age = match.age
            candidate.matched = load.tokens(match.length) if match.length else 0
            aside = load.breaker.open or load.pace.aside_until > now
            (broken if aside else healthy).append(candidate)
        turn = self._turns[deployment]
        self._turns[deployment] += 1
        return [
            choice
            for group in (healthy, broken)
            if group
            for choice in rank_by(
                policy, group, self._tokens(group, prompt), tie=tie,
                turn=turn, key=hash_key(prompt), most=most,
            )
        ]  # fmt: skip

    def working(self, workers: Iterable[FleetWorker], now: float) -> list[Load]:
        """Return what is known of those of some workers that are not put aside."""
        self._unseen.let_go(self._loads, now)
        loads = [self._load(worker.id) for worker in workers]
        return [x for x in loads if not (x.breaker.open or x.pace.aside_until > now)]

    def uncached(self, workers: Iterable[FleetWorker], prompt: Prompt) -> int:
        """Return the tokens of a prompt that none of the workers has probably cached."""
        matched = self._index.match(prompt.keys) if prompt.keys else {}
        least = sys.maxsize
        for worker in workers:
            cached = matched.get(worker.id, _NOTHING).length
            least = min(least, self._load(worker.id).tokens(max(0, prompt.size - cached)))
        return least

    def take(self, choice: Choice, prompt: Prompt, now: float, *, pulled: bool = False) -> Ticket:
        """Record that a request goes to a worker, which may pull the prompt's KV from another."""
        worker, load = choice.id, self._load(choice.id)
        stamp = self._index.record(
            prompt.keys, worker, prompt.size - int(choice.matched * load.bytes_per_token)
        )
        number, decoding = next(self._numbers), load.decoding
        ticket = Ticket(number, prompt, choice, now, stamp, pulled=pulled, decoding=decoding)
        if not pulled:
            load.given(choice.uncached * load.speed.speed.token, now)
            load.waiting[ticket.number] = choice.uncached
            load.outstanding += choice.uncached
            if not prompt.streamed:
                self._unseen.add(ticket.number, worker, load, now + choice.ttft)
        load.kv[ticket.number] = choice.uncached + TYPICAL_OUTPUT
        load.kv_used += choice.uncached + TYPICAL_OUTPUT
        if prompt.session:
            self._sessions.put(session_digest(prompt.session), worker)
        return ticket

    def answered(
        self, ticket: Ticket, now: float, usage: PromptUsage = _UNKNOWN, epoch: bytes = b""
    ) -> Prediction | None:
        """The first byte came: the prompt is computed, and the worker is alive.

        Args:
            ticket: of the request.
            now: monotonic seconds.
            usage: what the answer says of its prompt.
            epoch: random per start of the worker's engine, where the answer says it.

        Returns:
            how right the prediction was, if the answer tells.
        """
        load = self._loads.get(ticket.worker)
        if load is None:
            return None
        ticket.begun = True
        if not ticket.pulled:
            load.showed(ticket.number)
        load.breaker = load.breaker.succeeded()
        if epoch and epoch != load.epoch:
            self._begun_anew(ticket, first=not load.epoch)
            load.epoch = epoch
        self._learn(load, observation_of(ticket, now, usage))
        return None if usage.cached is None else Prediction(ticket.choice.matched, usage.cached)

    def told(self, ticket: Ticket, usage: PromptUsage) -> Prediction | None:
        """The end of a stream says of its prompt what the beginning has not.

        Returns:
            how right the prediction was, if it says that.
        """
        load = self._loads.get(ticket.worker)
        if load is None:
            return None
        observation = observation_of(ticket, ticket.sent, usage)
        observation.took = None  # when the first token came, the beginning has taught
        self._learn(load, observation)
        return None if usage.cached is None else Prediction(ticket.choice.matched, usage.cached)

    def ended(
        self,
        ticket: Ticket,
        *,
        counts: bool = True,
        failed: bool = False,
        down_at: float | None = None,
        erred_at: float | None = None,
        broken_off_at: float | None = None,
    ) -> None:
        """The request is over.

        Args:
            ticket: of the request.
            counts: whether it says anything about the worker; a client that left does not.
            failed: the worker failed it.
            down_at: when it failed so that the worker must be taken for broken.
            erred_at: when it failed by answering with an error.
            broken_off_at: when it said that it breaks off what it answers, as one that leaves.
        """
        load = self._loads.get(ticket.worker)
        if load is None:
            return
        if failed and not ticket.begun:
            self._index.retract(ticket.prompt.keys, ticket.worker, ticket.stamp)
        blamed = broken_off_at is not None and load.breaker.only_breaks_off
        load.ended(ticket.number, counts=counts or blamed, failed=failed)
        if down_at is not None:
            load.breaker = load.breaker.failed(down_at)
        elif erred_at is not None:
            load.breaker = load.breaker.erred(erred_at)
        elif broken_off_at is not None:
            load.breaker = load.breaker.broke_off(broken_off_at)

    def streamed(self, worker: str, mean_pause: float) -> None:
        """A stream has come to its end, with so many seconds between its events."""
        load = self._loads.get(worker)
        if load is not None:
            load.pace = load.pace.ended(mean_pause)

    def put_slow_aside(self, pool: Mapping[str, Iterable[float]], now: float) -> list[str]:
        """Put those of a pool aside that are and stay much slower than the others; return them.

        Each comes with the mean pauses of its streams under way.
        """
        paces = {name: self._load(name).pace.with_streams(means) for name, means in pool.items()}
        slow, put_aside = outliers(paces, now), []
        for worker, pace in paces.items():
            load = self._loads[worker]
            if worker in slow:
                load.pace = load.pace.found_slow(now)
                if load.pace.aside_until > now:
                    put_aside.append(worker)
            elif pace.streams >= ENOUGH:
                load.pace = load.pace.found_well()
        return put_aside

    def epoch(self, worker: str) -> bytes:
        """Return what a worker's engine was called when it last answered."""
        load = self._loads.get(worker)
        return load.epoch if load else b""

    def tally(self, worker: str) -> Tally:
        """Return what is known of a worker."""
        load = self._loads.get(worker)
        return load.tally() if load else Tally()

    def to_probe(self, now: float) -> list[str]:
        """Return the workers that are put aside and should be looked at again."""
        return [worker for worker, load in self._loads.items() if load.breaker.due(now)]

    def probed(self, worker: str, *, well: bool, now: float) -> None:
        """Record what a probe found."""
        load = self._loads.get(worker)
        if load is not None:
            load.breaker = load.breaker.probed() if well else load.breaker.failed(now)

    def _load(self, worker: str) -> Load:
        load = self._loads.get(worker)
        if load is None:
            load = self._loads[worker] = Load(Candidate(worker))
        return load

    def _learn(self, load: Load, observation: Observation) -> None:
        if observation.took is not None:
            load.speed.observe(observation.behind, observation.took)
            if not load.prompt_token:
                load.prompts.observe(observation.behind, observation.decoding, observation.took)
        load.learn_tokens(observation.size, observation.prompt)
        if observation.age is not None:
            self._index.reported(load.candidate.id, observation.age, cached=observation.right)

    def _tokens(self, group: list[Candidate], prompt: Prompt) -> int:
        """Return about how many tokens the prompt has."""
        return self._load(group[0].id).tokens(prompt.size)

    def _begun_anew(self, ticket: Ticket, *, first: bool) -> None:
        """Believe nothing of a cache across a restart but what was computed since."""
        if not first:
            self._index.forget(ticket.worker)
            ticket.stamp = self._index.record(ticket.prompt.keys, ticket.worker, ticket.prompt.size)
