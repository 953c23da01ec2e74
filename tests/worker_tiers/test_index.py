"""Who leaves a tier first."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.tiers.index import PROTECTED, SegmentedLRU

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "protect", "touch", "discard", "oldest"]),
        st.integers(0, 12),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_sizes_add_up_whatever_happens(operations: list[tuple[str, int, int]]) -> None:
    index: SegmentedLRU[int] = SegmentedLRU(20)
    known: dict[int, int] = {}
    for what, key, size in operations:
        if what in ("add", "protect"):
            index.add(key, size, protected=what == "protect")
            known[key] = size
        elif what == "touch":
            index.touch(key)
        elif what == "discard":
            assert index.discard(key) is (known.pop(key, None) is not None)
        else:
            index.add_oldest([(key, size)])
            known.setdefault(key, size)
        while (victim := index.victim()) is not None:
            index.discard(victim)
            del known[victim]
        assert set(index.keys()) == set(known)
        assert index.used == sum(known.values()) <= 20
        assert len(index) == len(known)


def test_the_least_recently_used_leaves_first() -> None:
    index: SegmentedLRU[str] = SegmentedLRU(3)
    for key in "abcd":
        index.add(key, 1)
    assert index.victim() == "a"


def test_what_nobody_repeats_pushes_out_nothing_that_is_repeated() -> None:
    index: SegmentedLRU[str] = SegmentedLRU(10)
    index.add("often", 1)
    index.touch("often")
    for number in range(100):
        index.add(f"once {number}", 1)
        while (victim := index.victim()) is not None:
            index.discard(victim)
    assert "often" in index


def test_even_what_is_repeated_leaves_when_others_are_repeated_more_recently() -> None:
    index: SegmentedLRU[int] = SegmentedLRU(10)
    for key in range(30):
        index.add(key, 1, protected=True)
        while (victim := index.victim()) is not None:
            index.discard(victim)
    assert set(index.keys()) == set(range(20, 30))
    assert index.capacity * PROTECTED == 8


def test_what_a_scan_finds_is_older_than_what_came_since() -> None:
    index: SegmentedLRU[str] = SegmentedLRU(2)
    index.add("new", 1)
    index.add_oldest([("oldest", 1), ("older", 1), ("new", 1)])
    assert index.used == 3
    assert index.victim() == "oldest"
