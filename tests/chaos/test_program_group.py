"""Whoever is started by a program that a test runs, does not outlive the test."""

from pathlib import Path

from program_group import finished
from waiting import eventually


def test_what_a_program_has_started_ends_with_it() -> None:
    found = finished(["bash", "-c", "sleep 3600 >/dev/null 2>&1 & echo $!"])
    assert found.returncode == 0
    status = Path(f"/proc/{int(found.stdout)}/stat")

    def ended() -> bool:
        try:  # one that nobody has waited for yet is ended, too
            return status.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    eventually(ended, "the other one has ended")
