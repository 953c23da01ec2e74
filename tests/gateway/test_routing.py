"""Routing decisions, as functions of plain values."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.fleet import FleetWorker
from penstock_gateway.routing.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker
from penstock_gateway.routing.load import Router, Tally
from penstock_gateway.routing.policy import CROWD, Candidate, rank
from penstock_gateway.routing.prefix_index import FIRST_BOUNDARY, PrefixIndex, prefix_keys

ties = st.floats(0, 1, exclude_max=True)
candidates = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        in_flight=st.integers(0, 50),
        waiting_bytes=st.integers(0, 10**6),
        matched_bytes=st.integers(0, 10**6),
    ),
    max_size=8,
)


@given(candidates, st.integers(0, 10**6), ties)
def test_a_ranking_is_a_permutation_ordered_by_cost(
    found: list[Candidate], prompt: int, tie: float
) -> None:
    ranking = rank(found, prompt, tie)
    assert sorted(c.id for c in ranking) == sorted(c.id for c in found)
    assert [c.cost for c in ranking] == sorted(c.cost for c in ranking)


def test_ties_are_broken_by_the_number_given() -> None:
    equal = [Candidate(str(n), 0, 0, 0) for n in range(4)]
    assert {rank(equal, 100, n / 4)[0].id for n in range(4)} == {"0", "1", "2", "3"}


def test_a_cached_prefix_attracts_until_its_queue_outweighs_it() -> None:
    def first(in_flight: int, waiting: int) -> str:
        hot = Candidate("hot", in_flight, waiting, matched_bytes=8 * CROWD)
        return rank([hot, Candidate("cold", 0, 0, 0)], 10 * CROWD, 0.0)[0].id

    assert first(0, 0) == "hot"
    assert first(7, 0) == "hot"
    assert first(9, 0) == "cold"
    assert first(1, 8 * CROWD) == "cold"


def test_without_a_prefix_the_least_loaded_wins() -> None:
    found = [Candidate("a", 3, 0, 0), Candidate("b", 1, 0, 0), Candidate("c", 2, 0, 0)]
    assert [c.id for c in rank(found, 1000, 0.9)] == ["b", "c", "a"]


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_keys_are_equal_exactly_as_far_as_prompts_are(one: bytes, other: bytes) -> None:
    left, right = prefix_keys(one), prefix_keys(other)
    for a, b in zip(left, right, strict=False):
        assert a.length == b.length
        assert (a == b) == (one[: a.length] == other[: b.length])


@given(st.integers(0, 10**6))
def test_boundaries_are_few_and_cover_two_thirds(size: int) -> None:
    keys = prefix_keys(bytes(size))
    assert len(keys) <= 30
    if size >= FIRST_BOUNDARY:
        assert keys[-1].length >= size * 2 / 3 - 1


def test_a_salt_keeps_models_apart() -> None:
    assert not set(prefix_keys(bytes(999), b"a")) & set(prefix_keys(bytes(999), b"b"))


operations = st.lists(
    st.tuples(st.sampled_from(["record", "forget"]), st.integers(0, 3), st.integers(0, 5)),
    max_size=60,
)


@given(operations)
def test_the_index_equals_a_naive_one(found: list[tuple[str, int, int]]) -> None:
    prompts = [bytes([n // 2]) * 400 + bytes([n]) * 400 for n in range(6)]
    index = PrefixIndex()
    naive: dict[tuple[str, int], set[bytes]] = {}
    for operation, worker, prompt in found:
        name = f"w{worker}"
        if operation == "record":
            index.record(prefix_keys(prompts[prompt]), name)
            for key in prefix_keys(prompts[prompt]):
                naive.setdefault((name, key.length), set()).add(prompts[prompt][: key.length])
        else:
            index.forget(name)
            naive = {key: seen for key, seen in naive.items() if key[0] != name}
    for prompt in prompts:
        matched = index.match(prefix_keys(prompt))
        wanted: dict[str, int] = {}
        for key in prefix_keys(prompt):
            for worker in range(4):
                if prompt[: key.length] in naive.get((f"w{worker}", key.length), set()):
                    wanted[f"w{worker}"] = key.length
        assert matched == wanted


@given(st.lists(st.binary(min_size=200, max_size=900), max_size=30), st.integers(1, 20))
def test_the_index_is_bounded(prompts: list[bytes], capacity: int) -> None:
    index = PrefixIndex(capacity)
    for prompt in prompts:
        index.record(prefix_keys(prompt), "w")
        assert len(index) <= capacity


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


def workers(*names: str) -> list[FleetWorker]:
    return [
        FleetWorker(id=n, url=f"http://{n}", deployment="d", pool="p", role="Unified")
        for n in names
    ]


def test_load_is_what_was_taken_and_not_given_back() -> None:
    router = Router(PrefixIndex())
    fleet = workers("a", "b")

    def best() -> str:
        return router.rank(fleet, [], 100, tie=0.0)[0].id

    first = router.take(router.rank(fleet, [], 100, tie=0.0)[0], [], 100)
    assert (first.worker, best()) == ("a", "b")
    router.answered(first)
    assert best() == "b"  # still decoding
    router.ended(first)
    assert best() == "a"


def test_a_failed_worker_comes_last_but_is_not_lost() -> None:
    router = Router(PrefixIndex())
    fleet = workers("a", "b")
    ticket = router.take(router.rank(fleet, [], 0, tie=0.0)[0], [], 0)
    router.ended(ticket, failed=True, down_at=0.0)
    assert [c.id for c in router.rank(fleet, [], 0, tie=0.0)] == ["b", "a"]
    assert router.to_probe(FIRST_PAUSE / 2) == []
    assert router.to_probe(FIRST_PAUSE) == ["a"]
    router.probed("a", well=False, now=FIRST_PAUSE)
    assert router.to_probe(FIRST_PAUSE) == []
    assert router.rank(fleet, [], 0, tie=0.0)[0].id == "b"
    router.probed("a", well=True, now=10.0)
    assert router.rank(fleet, [], 0, tie=0.0)[0].id == "a"


def test_a_tally_counts_what_a_worker_was_given_and_what_it_failed() -> None:
    router = Router(PrefixIndex())
    for outcome in ({}, {"failed": True}, {"failed": True, "down_at": 0.0}, {"counts": False}):
        choice = router.rank(workers("a"), [], 100, tie=0.0)[0]
        router.ended(router.take(choice, [], 100), **outcome)
    router.take(router.rank(workers("a"), [], 100, tie=0.0)[0], [], 100)
    assert router.tally("a") == Tally(in_flight=1, waiting_bytes=100, requests=3, failures=2)
    assert router.tally("nobody") == Tally()


def test_a_worker_that_is_gone_is_forgotten() -> None:
    router = Router(PrefixIndex())
    keys = prefix_keys(bytes(1000))
    ticket = router.take(router.rank(workers("a"), keys, 1000, tie=0.0)[0], keys, 1000)
    router.keep_only(["b"])
    router.ended(ticket)  # its request may end later
    (choice,) = router.rank(workers("a"), keys, 1000, tie=0.0)
    assert (choice.matched_bytes, choice.cost) == (0, 1000)
