"""Which logs are shown, and that following loses and splits no line."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home
from penstock_operator.local.logs import bound, choose, lines, older


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.make()
    for age, name in enumerate(["gateway", "small-default-1", "small-default-10"]):
        found.log(name).write_text(f"first of {name}\n")
        os.utime(found.log(name), (age, age))
    return found


def test_a_name_means_that_process_and_no_other(home: Home) -> None:
    assert choose(home, "small-default-1") == [home.log("small-default-1")]


def test_a_pool_means_all_of_its_workers(home: Home) -> None:
    assert choose(home, "small/default") == [
        home.log("small-default-1"),
        home.log("small-default-10"),
    ]


def test_an_unknown_name_lists_the_known_ones(home: Home) -> None:
    with pytest.raises(UserError, match="known: gateway, small-default-1, small-default-10"):
        choose(home, "nobody")


def test_several_logs_say_which_is_which(home: Home) -> None:
    found = list(lines(choose(home, None), follow=lambda: False))
    assert found[0] == "[gateway] first of gateway"
    assert len(found) == 3


def test_following_yields_whole_lines_as_they_come(home: Home) -> None:
    log = home.log("gateway")
    rounds = iter([(True, "sec"), (True, "ond\nthi"), (True, ""), (False, "rd")])

    def follow() -> bool:
        again, text = next(rounds)
        with log.open("a") as file:
            file.write(text)
        return again

    assert list(lines([log], follow=follow)) == ["first of gateway", "second", "third"]


def test_a_log_that_has_become_too_long_begins_anew_under_its_writer(home: Home) -> None:
    log = home.log("gateway")
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100 + b"\n")
        bound(log, longest=1000)
        assert not older(log).exists()
        bound(log, longest=100)
        writer.write(b"after\n")
    assert log.read_text() == "after\n"
    assert older(log).read_text().startswith("first of gateway\nxxx")
    assert choose(home, "gateway") == [log]


def test_following_a_log_that_begins_anew_loses_no_line(home: Home) -> None:
    log = home.log("gateway")

    def write(text: str) -> None:
        with log.open("a") as file:
            file.write(text)

    def steps() -> Iterator[bool]:
        yield True
        write("seen\n")
        yield True
        write("unseen\nhalf")
        bound(log, longest=10)
        write(" a line\nnew\n")
        yield True
        yield False

    step = steps()
    found = list(lines([log], follow=lambda: next(step)))
    assert found == ["first of gateway", "seen", "unseen", "half a line", "new"]


def test_following_goes_on_where_nothing_older_could_be_kept(home: Home) -> None:
    log = home.log("gateway")

    def steps() -> Iterator[bool]:
        yield True
        bound(log, longest=10)
        older(log).unlink()
        log.write_text("new\n")
        yield False

    step = steps()
    assert list(lines([log], follow=lambda: next(step))) == ["first of gateway", "new"]


def test_a_full_disk_gets_its_space_back(home: Home) -> None:
    log = home.log("gateway")
    older(log).mkdir()  # nothing can be copied there
    bound(log, longest=5)
    assert log.read_text() == ""


def test_an_unfinished_last_line_is_shown(home: Home) -> None:
    once: Callable[[], bool] = lambda: False  # noqa: E731
    home.log("gateway").write_text("no end")
    assert list(lines([home.log("gateway")], follow=once)) == ["no end"]
