"""What a wrong flag of the worker is answered with: the text that was sent, and what to write."""

import pytest

from penstock_contract.api.engine import Task
from penstock_worker.options import parser


@pytest.mark.parametrize(
    ("flag", "text", "told"),
    [
        ("--port", "99999", "'99999' is no port"),
        ("--port", "http", "'http' is no port"),
        ("--task", "chat", "'chat' is none of auto, generate, embed, score"),
        ("--max-num-seqs", "0", "'0' is no whole number of at least 1"),
        ("--max-num-seqs", "many", "'many' is no whole number of at least 1"),
        ("--group-address", "leader", "'leader' is no address: send HOST:PORT"),
        ("--adapter", "pirate", "'pirate' is no adapter: send NAME=FOLDER"),
        ("--worker-id", "a b", "use letters, digits"),
    ],
)
def test_a_wrong_value_is_told_with_what_to_write(
    capsys: pytest.CaptureFixture[str], flag: str, text: str, told: str
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--model", "m", flag, text])
    assert f"argument {flag}: {told}" in capsys.readouterr().err


def test_addresses_may_be_those_of_ipv6_and_tasks_in_any_case() -> None:
    found = parser().parse_args(
        ["--model", "m", "--group-address", "[::1]:29500", "--task", "EMBED"]
    )
    assert found.group_address == ("::1", 29500)
    assert found.task is Task.EMBED
