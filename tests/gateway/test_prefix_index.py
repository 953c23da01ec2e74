"""The prefix index over any course of events, and what it forgets first."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_gateway.routing.prefix_index import (
    BOUNDARIES,
    EVEN_UP_TO,
    FIRST_BOUNDARY,
    PER_OCTAVE,
    PrefixIndex,
    prefix_keys,
)

workers = st.sampled_from(["a", "b", "c", "d"])
# Prompts over few letters, half a boundary long each, so that prefixes really are shared.
prompts = st.lists(st.sampled_from([b"x", b"y"]), max_size=24).map(
    lambda letters: b"".join(letter * (FIRST_BOUNDARY // 2) for letter in letters)
)


def lengths(index: PrefixIndex, prompt: bytes) -> dict[str, int]:
    matched = index.match(prefix_keys(prompt))
    return {worker: match.length for worker, match in matched.items() if match.length}


def send(index: PrefixIndex, prompt: bytes, worker: str, uncached: int = 0) -> int:
    return index.record(prefix_keys(prompt), worker, uncached)


def shared(one: bytes, other: bytes) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def longest_boundary(size: int) -> int:
    return max((end for end in BOUNDARIES if end <= size), default=0)


@given(st.lists(st.tuples(prompts, workers), max_size=30), prompts)
def test_matches_are_those_of_a_naive_search(sent: list[tuple[bytes, str]], prompt: bytes) -> None:
    index = PrefixIndex()
    expected: dict[str, int] = {}
    for earlier, worker in sent:
        send(index, earlier, worker)
        longest = longest_boundary(shared(earlier, prompt))
        if longest:
            expected[worker] = max(longest, expected.get(worker, 0))
    assert lengths(index, prompt) == expected


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_keys_are_equal_exactly_as_far_as_prompts_are(one: bytes, other: bytes) -> None:
    for end, a, b in zip(BOUNDARIES, prefix_keys(one), prefix_keys(other), strict=False):
        assert (a == b) == (one[:end] == other[:end])


@given(st.integers(0, 10**6))
def test_boundaries_are_few_and_lose_little(size: int) -> None:
    keys = prefix_keys(bytes(size))
    assert len(keys) <= 90
    if size >= EVEN_UP_TO:
        assert BOUNDARIES[len(keys) - 1] > size * (1 - 1 / PER_OCTAVE)


def test_a_salt_keeps_models_and_tenants_apart() -> None:
    assert not set(prefix_keys(bytes(999), b"a")) & set(prefix_keys(bytes(999), b"b"))


class BoundedIndex(RuleBasedStateMachine):
    """Any order of work keeps the index inside its bound and free of workers that are gone."""

    capacity = 7

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(self.capacity)
        self.alive: set[str] = set()

    @rule(prompt=prompts, worker=workers)
    def record(self, prompt: bytes, worker: str) -> None:
        send(self.index, prompt, worker)
        self.alive.add(worker)

    @rule(worker=workers)
    def forget(self, worker: str) -> None:
        self.index.forget(worker)
        self.alive.discard(worker)

    @rule(prompt=prompts)
    def match(self, prompt: bytes) -> None:
        matched = lengths(self.index, prompt)
        assert matched.keys() <= self.alive
        assert all(0 < length <= len(prompt) for length in matched.values())

    @invariant()
    def bounded(self) -> None:
        # A generation turns when it is full: one prompt may be above it.
        longest = len(prefix_keys(bytes(24 * FIRST_BOUNDARY // 2)))
        assert len(self.index) <= 2 * (self.capacity + longest)


TestBoundedIndex = BoundedIndex.TestCase


def test_a_new_worker_never_inherits_the_cache_of_one_that_is_gone() -> None:
    index, prompt = PrefixIndex(), bytes(1000)
    send(index, prompt, "old")
    index.forget("old")
    send(index, b"y" * 1000, "new")
    assert lengths(index, prompt) == {}


def test_what_was_used_outlives_what_was_not() -> None:
    index, used, unused = PrefixIndex(4), b"u" * 512, b"v" * 512
    send(index, unused, "a")
    for filler in range(40):
        send(index, used, "a")
        send(index, bytes([filler]) * 512, "a")
    assert lengths(index, used) == {"a": 512}
    assert lengths(index, unused) == {}


def test_what_a_worker_did_not_compute_is_taken_back() -> None:
    index, first, both = PrefixIndex(), b"x" * 1024, b"x" * 2048
    send(index, first, "a")
    stamp = send(index, both, "a")
    index.retract(prefix_keys(both), "a", stamp)
    assert lengths(index, both) == {}
    send(index, both, "a")
    index.retract(prefix_keys(both), "a", stamp)  # somebody else's by now
    assert lengths(index, both) == {"a": 2048}


def test_what_lies_beyond_the_reach_of_a_cache_does_not_count() -> None:
    index, prompt = PrefixIndex(), bytes(1000)
    send(index, prompt, "a", 1000)
    index.reaches("a", 5000)
    send(index, b"y" * 4000, "a", 4000)
    assert lengths(index, prompt) == {"a": 512}
    send(index, b"z" * 4000, "a", 4000)
    assert lengths(index, prompt) == {}
    assert index.match(prefix_keys(prompt))["a"].age == 8000


def test_the_reach_is_learned_from_what_workers_report() -> None:
    index, prompt = PrefixIndex(), bytes(1000)
    send(index, prompt, "a", 1000)
    send(index, b"y" * 9000, "a", 9000)
    assert lengths(index, prompt) == {"a": 512}
    index.reported("a", 9000, cached=False)
    index.reported("a", 8000, cached=False)
    assert lengths(index, prompt) == {}
    index.reported("a", 9000, cached=True)
    assert lengths(index, prompt) == {"a": 512}


@given(st.lists(st.tuples(st.integers(1, 10**6), st.booleans()), max_size=40))
def test_no_report_makes_the_reach_negative_or_breaks_a_match(
    reports: list[tuple[int, bool]],
) -> None:
    index, prompt = PrefixIndex(), bytes(1000)
    for age, cached in reports:
        index.reported("a", age, cached=cached)
    send(index, prompt, "a")
    for age, cached in reports:
        index.reported("a", age, cached=cached)
    assert lengths(index, prompt) == {"a": 512}
