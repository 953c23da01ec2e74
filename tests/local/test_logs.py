"""Which logs are shown, and that following loses and splits no line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_operator.local.errors import UserError
from penstock_operator.local.home import Home
from penstock_operator.local.logs import choose, lines


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


def test_an_unfinished_last_line_is_shown(home: Home) -> None:
    once: Callable[[], bool] = lambda: False  # noqa: E731
    home.log("gateway").write_text("no end")
    assert list(lines([home.log("gateway")], follow=once)) == ["no end"]
