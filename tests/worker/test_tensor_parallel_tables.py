"""Whatever becomes of block tables from step to step, the other ranks know them whole."""

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.tensor_parallel.tables import NEW, ReceivedTables, SentTables

TABLES = st.lists(st.lists(st.integers(-1, 6), min_size=1, max_size=6), max_size=5)


@given(st.lists(TABLES, max_size=6))
def test_tables_arrive_as_they_are(steps: list[list[list[int]]]) -> None:
    sent, received = SentTables(), ReceivedTables()
    for tables in steps:
        assert received.tables(deepcopy(sent.growth(tables))) == tables


def test_a_table_that_grows_costs_its_new_blocks_only() -> None:
    sent, received = SentTables(), ReceivedTables()
    long, other = [*range(100)], [200]
    for step in range(40):
        tables = [other, long] if step % 2 else [long, other]
        grown = sent.growth(tables)
        assert received.tables(deepcopy(grown)) == tables  # as if sent
        if step:
            assert sum(len(more) for _, more in grown) <= 1
            assert all(place != NEW for place, _ in grown)
        if step % 4 == 0:
            long.append(100 + step)  # in place, as the scheduler does


def test_a_block_that_was_copied_makes_a_table_new() -> None:
    sent, received = SentTables(), ReceivedTables()
    for tables in ([[1, 2, 3]], [[1, 2, 4]], [[1, 2, 4, 5], [1, 2, 3]]):
        assert received.tables(deepcopy(sent.growth(tables))) == tables
