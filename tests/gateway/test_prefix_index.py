"""The prefix index over any course of events, and what it forgets first."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_gateway.routing.prefix_index import FIRST_BOUNDARY, PrefixIndex, prefix_keys

workers = st.sampled_from(["a", "b", "c", "d"])
# Prompts over few letters, a boundary long each, so that prefixes really are shared.
prompts = st.lists(st.sampled_from([b"x", b"y"]), max_size=24).map(
    lambda letters: b"".join(letter * (FIRST_BOUNDARY // 2) for letter in letters)
)


def shared(one: bytes, other: bytes) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@given(st.lists(st.tuples(prompts, workers), max_size=30), prompts)
def test_matches_are_those_of_a_naive_search(sent: list[tuple[bytes, str]], prompt: bytes) -> None:
    index = PrefixIndex()
    for earlier, worker in sent:
        index.record(prefix_keys(earlier), worker)
    expected: dict[str, int] = {}
    for earlier, worker in sent:
        common = shared(earlier, prompt)
        longest = max(
            (key.length for key in prefix_keys(prompt) if key.length <= common), default=0
        )
        if longest:
            expected[worker] = max(longest, expected.get(worker, 0))
    assert index.match(prefix_keys(prompt)) == expected


class BoundedIndex(RuleBasedStateMachine):
    """Any order of work keeps the index inside its bound and free of workers that are gone."""

    capacity = 7

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(self.capacity)
        self.alive: set[str] = set()

    @rule(prompt=prompts, worker=workers)
    def record(self, prompt: bytes, worker: str) -> None:
        self.index.record(prefix_keys(prompt), worker)
        self.alive.add(worker)

    @rule(worker=workers)
    def forget(self, worker: str) -> None:
        self.index.forget(worker)
        self.alive.discard(worker)

    @rule(prompt=prompts)
    def match(self, prompt: bytes) -> None:
        matched = self.index.match(prefix_keys(prompt))
        assert matched.keys() <= self.alive
        assert all(0 < length <= len(prompt) for length in matched.values())

    @invariant()
    def bounded(self) -> None:
        assert len(self.index) <= self.capacity


TestBoundedIndex = BoundedIndex.TestCase


def test_a_new_worker_never_inherits_the_cache_of_one_that_is_gone() -> None:
    index, keys = PrefixIndex(), prefix_keys(bytes(1000))
    index.record(keys, "old")
    index.forget("old")
    index.record(prefix_keys(b"y" * 1000), "new")
    assert index.match(keys) == {}


def test_what_was_used_last_outlives_what_was_not() -> None:
    one, two, three = (prefix_keys(letter * FIRST_BOUNDARY) for letter in (b"1", b"2", b"3"))
    index = PrefixIndex(2)
    index.record(one, "a")
    index.record(two, "a")
    assert index.match(one)
    index.record(three, "a")
    assert index.match(one)
    assert not index.match(two)


def test_eviction_shortens_a_match_before_it_loses_it() -> None:
    keys = prefix_keys(bytes(FIRST_BOUNDARY * 4))
    index = PrefixIndex(len(keys))
    index.record(keys, "a")
    index.record(prefix_keys(b"y" * FIRST_BOUNDARY), "a")
    assert index.match(keys) == {"a": keys[-2].length}
