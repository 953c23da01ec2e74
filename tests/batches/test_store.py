"""The life of a batch as it is written down: whatever happens, each request has one line."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_gateway.batches.batch import ENDED, NEXT, Batch, Counts, Status
from penstock_gateway.batches.database import (
    VERSION,
    Database,
    FolderTakenError,
    NewerSchemaError,
)
from penstock_gateway.batches.files import File, Files
from penstock_gateway.batches.lines import line_id
from penstock_gateway.batches.page import Page
from penstock_gateway.batches.steps import finish
from penstock_gateway.batches.store import BatchStore, Entry
from penstock_gateway.batches.turns import MOST_AT_ONCE, next_ones

ENTRIES = [Entry(number, f"n{number}", number * 10, 10) for number in range(1, 6)]


def batch(name: str = "batch_1", tenant: str = "ann", **changes: Any) -> Batch:
    return Batch(name, tenant, "/v1/completions", "file-1", "24h", 100, 200, **changes)


class Life(RuleBasedStateMachine):
    """A batch that is carried by a service which may be killed after each of its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory(prefix="penstock-batches-")
        self.folder = Path(self.temporary.name)
        self.database = Database(self.folder)
        self.store, self.files = BatchStore(self.database), Files(self.database)
        self.store.add(batch())
        self.answered: dict[int, bytes] = {}
        """What was kept first."""
        self.now = 100.0

    def teardown(self) -> None:
        self.database.close()
        self.temporary.cleanup()

    @property
    def found(self) -> Batch:
        found = self.store.find("batch_1")
        assert found is not None
        return found

    @rule()
    def is_killed(self) -> None:
        self.database.close()
        self.database = Database(self.folder)
        self.store, self.files = BatchStore(self.database), Files(self.database)
        self.files.sweep()

    @rule()
    def is_validated(self) -> None:
        before = self.found.status
        moved = self.store.validated("batch_1", ENTRIES, self.now)
        assert (moved is not None) == (before is Status.VALIDATING)

    @rule(entry=st.sampled_from(ENTRIES), ok=st.booleans(), text=st.binary(min_size=1))
    def is_answered(self, entry: Entry, ok: bool, text: bytes) -> None:
        line = b"%d %s\n" % (entry.number, text.hex().encode())
        runs = self.found.status is Status.IN_PROGRESS
        kept = self.store.answered("batch_1", entry.number, line, ok=ok)
        assert kept == (runs and entry.number not in self.answered)
        if kept:
            self.answered[entry.number] = line

    @rule(status=st.sampled_from([Status.FINALIZING, Status.CANCELLING, Status.FAILED]))
    def comes_to(self, status: Status) -> None:
        allowed = status in NEXT.get(self.found.status, ())
        moved = self.store.move("batch_1", status, self.now)
        assert (moved is not None) == allowed

    @precondition(lambda self: self.found.status in (Status.FINALIZING, Status.CANCELLING))
    @rule()
    def is_killed_while_it_is_finished(self) -> None:
        """Files are written, and then it dies before the database knows of them."""
        with pytest.raises(sqlite3.OperationalError):
            finish(self.found, self.files, _Dying(self.database))
        self.is_killed()

    @precondition(lambda self: self.found.status in (Status.FINALIZING, Status.CANCELLING))
    @rule()
    def is_finished(self) -> None:
        assert finish(self.found, self.files, self.store) is not None

    @invariant()
    def counts_are_right(self) -> None:
        counts = self.found.counts
        assert counts.completed + counts.failed == len(self.answered)
        if self.found.status is Status.IN_PROGRESS:
            left = [entry.number for entry in self.store.unanswered("batch_1", 0)]
            assert sorted([*left, *self.answered]) == [entry.number for entry in ENTRIES]

    @invariant()
    def each_request_has_one_line_when_it_has_ended(self) -> None:
        found = self.found
        if found.status not in ENDED or found.status is Status.FAILED:
            return
        lines = [*self._lines(found.output_file), *self._lines(found.error_file)]
        assert len(lines) == found.counts.total
        assert sorted(line for line in lines if line in self.answered.values()) == sorted(
            self.answered.values()
        )
        listed, _ = self.files.listed("ann", Page(100))
        known = {found.output_file, found.error_file} - {None}
        assert {file.id for file in listed} == known

    def _lines(self, file_id: str | None) -> list[bytes]:
        if file_id is None:
            return []
        return self.files.path(file_id).read_bytes().splitlines(keepends=True)


class _Dying(BatchStore):
    """Forgets to commit."""

    def forget_requests(self, batch_id: str, connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("killed")


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_an_answer_is_kept_once(tmp_path: Path) -> None:
    store = BatchStore(Database(tmp_path))
    store.add(batch())
    store.validated("batch_1", ENTRIES, 100)
    assert store.answered("batch_1", 1, b"first\n", ok=True)
    assert not store.answered("batch_1", 1, b"second\n", ok=False)
    assert next(store.lines("batch_1")).answer == b"first\n"
    found = store.find("batch_1")
    assert found is not None
    assert found.counts == Counts(5, 1, 0)


def test_what_finds_the_disk_full_changes_nothing_and_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path)
    store = BatchStore(database)
    store.add(batch())
    store.validated("batch_1", ENTRIES, 100)
    with database.look() as connection:
        connection.execute("PRAGMA max_page_count=30")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.answered("batch_1", 1, b"x" * 1_000_000, ok=True)
    assert store.answered("batch_1", 1, b"short\n", ok=True)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    first = Database(tmp_path)
    with pytest.raises(FolderTakenError, match="another"):
        Database(tmp_path)
    first.close()
    Database(tmp_path).close()


def test_a_folder_of_a_later_version_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    Database(tmp_path).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "batches.db")) as later:
        later.execute(f"PRAGMA user_version={VERSION + 1}")
    for _ in range(2):  # and it is not left locked
        with pytest.raises(NewerSchemaError, match=f"schema {VERSION + 1}.*run the version"):
            Database(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "batches.db")) as later:
        assert later.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)


def test_files_go_when_their_time_is_over_unless_a_batch_reads_them(tmp_path: Path) -> None:
    database = Database(tmp_path)
    files, store = Files(database), BatchStore(database)
    for name in ("file-1", "file-2"):
        with files.written(name) as content:
            content.write(b"x")
        files.put(File(name, "ann", "batch", "a", 1, 100, 150))
    store.add(batch())  # of file-1
    assert files.expire(149) == 0
    assert files.expire(150) == 1
    assert files.find("ann", "file-1") is not None
    assert not files.path("file-2").exists()
    store.move("batch_1", Status.FAILED, 160)
    assert files.expire(160) == 1
    assert files.stored() == (0, 0)


def test_batches_are_forgotten_that_have_ended_and_are_old_or_too_many(tmp_path: Path) -> None:
    store = BatchStore(Database(tmp_path))
    ended = {"a0", "a1", "a2", "b0"}
    for name in ("a0", "a1", "live", "a2", "b0"):
        store.add(batch(name, "bob" if name == "b0" else "ann"))
        if name in ended:
            store.move(name, Status.FAILED, 160)

    def names() -> list[str]:
        return [found.id for found in store.listed("ann", Page(9))[0]]

    store.expire(100, 3)
    assert names() == ["a2", "live", "a1"]
    store.expire(100, 1)
    assert names() == ["a2", "live"]
    assert store.find("b0") is not None
    store.expire(101, 9)
    assert names() == ["live"]


def test_what_a_killed_service_left_of_an_upload_is_swept_away(tmp_path: Path) -> None:
    files = Files(Database(tmp_path))
    with files.written("file-1") as content:
        content.write(b"x")
    files.put(File("file-1", "ann", "batch", "a", 1, 100, 150))
    with pytest.raises(KeyboardInterrupt), files.written("file-2") as content:
        raise KeyboardInterrupt
    for lost in ("file-3", "file-4.part", "of-somebody-else"):
        (tmp_path / "files" / lost).write_bytes(b"x")
    files.sweep()
    left = {found.name for found in (tmp_path / "files").iterdir()}
    assert left == {"file-1", "of-somebody-else"}


def test_lists_come_in_pages_and_nobody_begins_one_at_anothers_file(tmp_path: Path) -> None:
    files = Files(Database(tmp_path))
    for number in range(6):
        tenant = "bob" if number == 3 else "ann"
        files.put(File(f"f{number}", tenant, "batch", "a", 1, number, 10**10))

    def names(page: Page) -> list[str]:
        return [file.id for file in files.listed("ann", page)[0]]

    assert names(Page(2)) == ["f5", "f4"]
    assert names(Page(2, "f4")) == ["f2", "f1"]
    assert names(Page(9, "f1", newest_first=False)) == ["f2", "f4", "f5"]
    assert names(Page(9, "f3")) == []
    assert files.listed("ann", Page(5))[1] is False
    assert files.listed("ann", Page(4))[1] is True
    assert files.listed("ann", Page(9), "batch_output") == ([], False)


def test_tenants_take_turns() -> None:
    active = [batch(f"a{n}", "ann") for n in range(20)] + [batch("b", "bob"), batch("c", "eve")]
    begun = next_ones(active, set())
    assert len(begun) == MOST_AT_ONCE
    assert {"b", "c"} < {found.id for found in begun}
    later = next_ones(active, {found.id for found in begun})
    assert later == []
    assert next_ones(active, {"a0", "a1", "b"})[0].id == "c"


def test_batches_that_do_not_end_keep_no_other_tenant_waiting() -> None:
    active = [batch(f"a{n}", "ann") for n in range(40)]
    begun = {found.id for found in next_ones(active, set())}
    assert len(begun) == MOST_AT_ONCE
    active += [batch("b0", "bob"), batch("b1", "bob")]
    assert [found.id for found in next_ones(active, begun)] == ["b0"]
    assert next_ones(active, {*begun, "b0"}) == []


def test_a_line_has_one_id_whenever_it_is_written() -> None:
    assert line_id("batch_ab", 7) == "batch_req_ab_7"
