"""Routing decisions, as functions of plain values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.breaker import ERRORS, FIRST_PAUSE, LONGEST_PAUSE, Breaker
from penstock_gateway.routing.policies import rank_by
from penstock_gateway.routing.policy import COMPUTING, NEAR, STICKINESS, Candidate, rank
from penstock_gateway.routing.prefix_index import PrefixIndex, prefix_keys
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.speed import TYPICAL_OUTPUT, Speed
from penstock_gateway.routing.ticket import Prediction, Prompt
from penstock_gateway.routing.worker_load import Tally

POLICIES = ["PrefixAware", "LeastLoad", "RoundRobin", "ConsistentHash"]
SPEED = Speed(0.0, 1e-3, 1e-3)
"""A thousand tokens a second."""
EMPTY = Prompt()
ties = st.floats(0, 1, exclude_max=True)
candidates = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        speed=st.builds(Speed, st.floats(0, 1), st.floats(1e-6, 1e-2), st.floats(0, 1e-2)),
        resident=st.integers(0, 50),
        outstanding=st.integers(0, 10**6),
        matched=st.integers(0, 10**6),
        recent=st.floats(0, 1e3),
        kv_free=st.integers(-(10**6), 10**6).map(float),
        session=st.booleans(),
        preferred=st.booleans(),
    ),
    max_size=8,
)


def changed(candidate: Candidate, **values: Any) -> Candidate:
    found = candidate.copy()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def best(found: list[Candidate], prompt: int, tie: float = 0.0) -> str:
    return rank(found, prompt, tie)[0].id


@given(st.sampled_from(POLICIES), candidates, st.integers(0, 10**6), ties, st.integers(0, 99))
def test_a_ranking_is_a_permutation_with_the_preferred_first(
    policy: str, found: list[Candidate], prompt: int, tie: float, turn: int
) -> None:
    ranking = rank_by(policy, found, prompt, tie=tie, turn=turn, key=turn)
    assert sorted(c.id for c in ranking) == sorted(c.id for c in found)
    preferred = [c.candidate.preferred for c in ranking]
    assert preferred == sorted(preferred, reverse=True)
    assert all(choice.reason for choice in ranking)


@given(candidates, st.integers(0, 10**6), ties)
def test_among_workers_with_room_the_first_is_nearly_the_cheapest(
    found: list[Candidate], prompt: int, tie: float
) -> None:
    bound = STICKINESS + min((c.ttft for c in rank(found, prompt, tie)), default=0.0)
    ranking = [
        choice
        for choice in rank(found, prompt, tie)
        if choice.candidate.preferred and choice.fits and choice.ttft <= bound
    ]
    if ranking:
        assert ranking[0].cost <= min(choice.cost for choice in ranking) + NEAR


def test_ties_are_broken_by_the_number_given() -> None:
    equal = [Candidate(str(n)) for n in range(4)]
    assert {best(equal, 100, n / 4) for n in range(4)} == {"0", "1", "2", "3"}


def test_a_cached_prefix_attracts_until_its_queue_outweighs_it() -> None:
    def first(outstanding: int) -> str:
        hot = Candidate("hot", SPEED, outstanding=outstanding, matched=200)
        return best([hot, Candidate("cold", SPEED)], 1000)

    saved = int(COMPUTING * 200)
    assert [first(n) for n in (0, saved - 100, saved + 100)] == ["hot", "hot", "cold"]


def test_what_is_cached_nowhere_goes_where_least_was_computed_lately() -> None:
    found = [Candidate("a", SPEED, recent=9.0), Candidate("b", SPEED, recent=8.0)]
    assert best(found, 1000) == "b"
    assert best([changed(found[0], matched=900), found[1]], 1000) == "a"


def test_no_prefix_is_worth_waiting_for_longer_than_the_bound() -> None:
    def first(outstanding: int) -> str:
        hot = Candidate("hot", SPEED, outstanding=outstanding, matched=20_000)
        return best([hot, Candidate("cold", SPEED, matched=18_000)], 20_000)

    assert first(3900) == "hot"
    assert first(4100) == "cold"


def test_each_worker_is_judged_by_its_own_speed() -> None:
    slow, fast = Candidate("slow", Speed(0, 1e-3)), Candidate("fast", Speed(0, 1e-4))
    assert best([slow, fast], 1000) == "fast"
    assert best([changed(slow, matched=990), fast], 1000) == "slow"


def test_without_a_prefix_the_least_crowded_wins() -> None:
    found = [Candidate(name, SPEED, resident=n) for name, n in (("a", 3), ("b", 1), ("c", 2))]
    assert [c.id for c in rank(found, 1000, 0.9)] == ["b", "c", "a"]


def test_a_worker_without_room_for_the_kv_comes_last() -> None:
    full, free = Candidate("full", SPEED, kv_free=900), Candidate("free", SPEED, resident=9)
    assert [c.id for c in rank([full, free], 1000, 0.0)] == ["free", "full"]
    assert best([full, free], 800) == "full"
    assert best([changed(full, matched=200), free], 1000) == "full"


def test_a_session_returns_to_its_worker_until_that_is_too_far_behind() -> None:
    own, other = Candidate("own", SPEED, session=True), Candidate("other", SPEED)
    assert best([changed(own, outstanding=1900), other], 1000) == "own"
    assert best([changed(own, outstanding=2100), other], 1000) == "other"


def test_round_robin_goes_round() -> None:
    found = [Candidate(name, resident=9 * (name == "a")) for name in "abc"]
    turns = [rank_by("RoundRobin", found, 9, tie=0.5, turn=n, key=0)[0].id for n in range(6)]
    assert turns == list("abcabc")


def test_round_robin_goes_round_whatever_becomes_of_the_requests() -> None:
    router = Router(PrefixIndex())
    taken = []
    for n in range(8):
        fleet = workers(*"abcd")
        choice = router.rank(fleet, EMPTY, tie=0.0, now=0.0, policy="RoundRobin")[0]
        ticket = router.take(choice, EMPTY, 0.0)
        taken.append(ticket.worker)
        if n % 3:
            router.ended(ticket)
    assert taken == list("abcdabcd")


def test_least_load_counts_requests_and_nothing_else() -> None:
    found = [Candidate("a", resident=2, matched=99), Candidate("b", resident=1, outstanding=10**6)]
    assert rank_by("LeastLoad", found, 100, tie=0.0, turn=0, key=0)[0].id == "b"


@given(st.sets(st.integers(0, 99), min_size=2, max_size=12), st.integers(0, 2**64 - 1))
def test_a_consistent_hash_moves_only_what_was_on_the_worker_that_left(
    names: set[int], key: int
) -> None:
    found = [Candidate(str(name)) for name in names]

    def first(left: list[Candidate]) -> str:
        return rank_by("ConsistentHash", left, 1, tie=0.0, turn=0, key=key)[0].id

    home = first(found)
    for gone in found:
        if gone.id != home:
            assert first([c for c in found if c is not gone]) == home


def test_a_consistent_hash_passes_over_a_worker_above_the_bound() -> None:
    found = [Candidate(str(n), resident=4) for n in range(4)]
    home = int(rank_by("ConsistentHash", found, 1, tie=0.0, turn=0, key=7)[0].id)
    found[home] = changed(found[home], resident=8)
    assert rank_by("ConsistentHash", found, 1, tie=0.0, turn=0, key=7)[0].id != str(home)


def test_a_breaker_pauses_longer_each_time_and_forgets_on_success() -> None:
    breaker = Breaker()
    pauses = []
    now = 0.0
    for _ in range(12):
        breaker = breaker.failed(now)
        pauses.append(breaker.probe_at - now)
        assert breaker.open
        assert not breaker.due(now)
        now = breaker.probe_at
        assert breaker.due(now)
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert breaker.succeeded() == Breaker()


def test_a_probe_lets_a_worker_back_in_and_does_not_excuse_it() -> None:
    breaker = Breaker().failed(0.0).failed(1.0).probed()
    assert not breaker.open
    assert breaker.failed(2.0).probe_at == 2.0 + 4 * FIRST_PAUSE


def broken_off(breaker: Breaker, count: int, now: float) -> Breaker:
    for _ in range(count):
        breaker = breaker.succeeded().broke_off(now)  # it begins well each time
    return breaker


def test_answers_broken_off_in_a_row_open_a_breaker_for_longer_each_time() -> None:
    breaker = broken_off(Breaker(), ERRORS - 1, 0.0)
    assert not breaker.open
    now, pauses = 0.0, []
    for _ in range(4):
        breaker = broken_off(breaker, 1, now)
        assert breaker.open
        assert not breaker.only_breaks_off
        pauses.append(breaker.probe_at - now)
        now = breaker.probe_at
        breaker = breaker.probed()
        assert breaker.only_breaks_off
    assert pauses == [FIRST_PAUSE * 2**n for n in range(4)]


def test_streams_broken_off_at_once_are_one_accident() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker = breaker.broke_off(7.0)
    assert breaker.probe_at == 7.0 + FIRST_PAUSE


def test_a_whole_answer_makes_a_breaker_forget_those_that_were_broken_off() -> None:
    breaker = broken_off(Breaker(), ERRORS - 1, 0.0).succeeded()
    assert broken_off(breaker, 1, 0.0).open
    assert not broken_off(breaker.finished(), 1, 0.0).open


def workers(*names: str) -> list[FleetWorker]:
    return [
        FleetWorker(id=n, url=f"http://{n}", deployment="d", pool="p", role="Unified")
        for n in names
    ]


def prompt_of(text: bytes, **more: Any) -> Prompt:
    return Prompt(prefix_keys(text), len(text), **more)


def order(router: Router, names: str, prompt: Prompt = EMPTY, now: float = 0.0) -> str:
    return "".join(c.id for c in router.rank(workers(*names), prompt, tie=0.0, now=now))


def send(router: Router, names: str, prompt: Prompt = EMPTY, now: float = 0.0) -> Any:
    choice = router.rank(workers(*names), prompt, tie=0.0, now=now)[0]
    return router.take(choice, prompt, now)


def test_load_is_what_was_taken_and_not_given_back() -> None:
    router = Router(PrefixIndex())
    first = send(router, "ab")
    assert (first.worker, order(router, "ab")) == ("a", "ba")
    router.answered(first, 0.0)
    assert order(router, "ab") == "ba"  # still decoding
    router.ended(first)
    assert order(router, "ab") == "ab"


def test_a_failed_worker_comes_last_but_is_not_lost() -> None:
    router = Router(PrefixIndex())
    router.ended(send(router, "ab"), failed=True, down_at=0.0)
    assert order(router, "ab") == "ba"
    assert router.to_probe(FIRST_PAUSE / 2) == []
    assert router.to_probe(FIRST_PAUSE) == ["a"]
    router.probed("a", well=False, now=FIRST_PAUSE)
    assert router.to_probe(FIRST_PAUSE) == []
    assert order(router, "ab") == "ba"
    router.probed("a", well=True, now=10.0)
    firsts = {router.rank(workers("a", "b"), EMPTY, tie=t, now=10.0)[0].id for t in (0.0, 0.9)}
    assert firsts == {"a", "b"}


def test_a_tally_counts_what_a_worker_was_given_and_what_it_failed() -> None:
    router = Router(PrefixIndex())
    for outcome in ({}, {"failed": True}, {"failed": True, "down_at": 0.0}, {"counts": False}):
        router.ended(send(router, "a", prompt_of(bytes(100))), **outcome)
    send(router, "a", prompt_of(bytes(100)))
    assert router.tally("a") == Tally(in_flight=1, outstanding_tokens=25, requests=3, failures=2)
    assert router.tally("nobody") == Tally()


def test_a_worker_that_is_gone_is_forgotten() -> None:
    router, prompt = Router(PrefixIndex()), prompt_of(bytes(1000))
    ticket = send(router, "a", prompt)
    router.keep_only(["b"])
    router.ended(ticket)  # its request may end later
    (choice,) = router.rank(workers("a"), prompt, tie=0.0, now=0.0)
    assert (choice.matched, choice.candidate.resident) == (0, 0)


def test_a_prompt_that_a_worker_refused_is_not_expected_to_be_cached() -> None:
    router, prompt = Router(PrefixIndex()), prompt_of(bytes(1000))
    router.ended(send(router, "a", prompt), failed=True)
    assert router.rank(workers("a"), prompt, tie=0.0, now=0.0)[0].matched == 0


def test_a_session_is_remembered_whatever_its_prompts() -> None:
    router = Router(PrefixIndex())
    ticket = send(router, "abc", prompt_of(b"one", session="s"))
    router.ended(ticket)
    for tie in (0.0, 0.5, 0.9):
        found = router.rank(
            workers(*"abc"), prompt_of(b"other" * 900, session="s"), tie=tie, now=0.0
        )
        assert found[0].id == ticket.worker


def test_answers_tell_how_right_predictions_were() -> None:
    router, prompt = Router(PrefixIndex()), prompt_of(bytes(1024))
    assert router.answered(send(router, "a", prompt), 0.1, PromptUsage(None, 0)) == Prediction(0, 0)
    assert router.answered(send(router, "a", prompt), 0.2, PromptUsage(None, 200)) == Prediction(
        256, 200
    )
    assert router.answered(send(router, "a", prompt), 0.3) is None


def test_nothing_is_believed_of_a_cache_across_a_restart() -> None:
    router = Router(PrefixIndex())
    old, fresh = prompt_of(b"x" * 1000), prompt_of(b"y" * 1000)
    router.answered(send(router, "a", old), 0.0, epoch=b"1")
    assert router.rank(workers("a"), old, tie=0.0, now=0.0)[0].matched
    router.answered(send(router, "a", fresh), 0.0, epoch=b"2")
    assert not router.rank(workers("a"), old, tie=0.0, now=0.0)[0].matched
    assert router.rank(workers("a"), fresh, tie=0.0, now=0.0)[0].matched


def test_the_size_of_tokens_is_learned_from_answers() -> None:
    router, prompt = Router(PrefixIndex()), prompt_of(bytes(8000))
    router.answered(send(router, "a", prompt), 0.0, PromptUsage(1000, 0))
    (choice,) = router.rank(workers("a"), prompt_of(b"y" * 8000), tie=0.0, now=0.0)
    assert choice.uncached == 1000


def test_a_prompt_whose_first_token_cannot_be_seen_does_not_wait_for_ever() -> None:
    router = Router(PrefixIndex())
    ticket = send(router, "a", prompt_of(bytes(40_000), streamed=False))
    assert router.tally("a").outstanding_tokens == 10_000
    order(router, "a", now=ticket.choice.ttft + 0.1)
    assert router.tally("a") == Tally(in_flight=1)


def test_speeds_are_those_that_streams_show() -> None:
    router = Router(PrefixIndex())
    for n in range(60):
        ticket = send(router, "a", prompt_of(b"%d" % n * 4000))
        router.answered(ticket, 2e-3 * ticket.choice.uncached)
        router.ended(ticket)
    (choice,) = router.rank(workers("a"), prompt_of(b"-" * 16_000), tie=0.0, now=0.0)
    assert choice.ttft == pytest.approx(8.0, rel=0.2)


def test_a_worker_is_as_fast_and_as_roomy_as_it_says() -> None:
    router, prompt = Router(PrefixIndex()), prompt_of(bytes(4000))
    router.profile("a", SPEED, kv_tokens=1000 + TYPICAL_OUTPUT)
    (choice,) = router.rank(workers("a"), prompt, tie=0.0, now=0.0)
    assert choice.fits
    assert choice.ttft == pytest.approx(1.0)
    send(router, "a", prompt)
    assert not router.rank(workers("a"), prompt_of(b"y" * 4000), tie=0.0, now=0.0)[0].fits
