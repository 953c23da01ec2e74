"""Who tries a new revision: how many, and always the same ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_contract.api import Role
from penstock_contract.fleet import FleetCanary, FleetWorker
from penstock_gateway.routing.canary import (
    attempts,
    on_trial,
    preferred,
    session_key,
)
from penstock_gateway.routing.policy import Candidate, Choice
from penstock_gateway.routing.prefix_index import FIRST_BOUNDARY, prefix_keys

SESSIONS = [f"session-{n}".encode() for n in range(4000)]
revisions = st.text(st.characters(codec="ascii"), min_size=1, max_size=16)


def worker(name: str, revision: str) -> FleetWorker:
    return FleetWorker(
        id=name,
        url=f"http://{name}",
        deployment="d",
        pool="p",
        role=Role.UNIFIED,
        revision=revision,
    )


@given(revisions, st.integers(0, 100))
def test_the_share_is_the_weight(revision: str, weight: int) -> None:
    canary = FleetCanary(revision=revision, weight=weight)
    share = sum(on_trial(canary, session) for session in SESSIONS) / len(SESSIONS)
    assert abs(share - weight / 100) < 0.04  # five standard deviations


@given(revisions, st.binary(max_size=40), st.integers(0, 100), st.integers(0, 100))
def test_when_the_share_grows_nobody_goes_back(
    revision: str, session: bytes, one: int, other: int
) -> None:
    less, more = sorted((one, other))
    if on_trial(FleetCanary(revision=revision, weight=less), session):
        assert on_trial(FleetCanary(revision=revision, weight=more), session)


@given(revisions, st.binary(max_size=40))
def test_nobody_tries_at_0_and_everybody_at_100(revision: str, session: bytes) -> None:
    assert not on_trial(FleetCanary(revision=revision, weight=0), session)
    assert on_trial(FleetCanary(revision=revision, weight=100), session)


def test_another_revision_is_tried_by_others() -> None:
    first, second = (
        {s for s in SESSIONS if on_trial(FleetCanary(revision=name, weight=10), s)}
        for name in ("a", "b")
    )
    assert len(first & second) < len(first) / 2


@given(st.text(min_size=1), st.binary(max_size=600), st.binary(max_size=600))
def test_a_session_header_decides_alone(affinity: str, one: bytes, other: bytes) -> None:
    assert session_key(affinity, prefix_keys(one), one) == session_key(
        affinity, prefix_keys(other), other
    )


def test_without_a_header_conversations_with_one_system_prompt_differ() -> None:
    system = b"You are helpful. " * 100
    prompts = [system + bytes([65 + n]) * 1700 for n in range(20)]
    assert len({session_key(None, prefix_keys(prompt), prompt) for prompt in prompts}) == 20


def test_without_a_header_the_next_turn_stays_mostly() -> None:
    turns = [b"x" * FIRST_BOUNDARY * 4 + b"turn " * n for n in range(30)]
    keys = [session_key(None, prefix_keys(turn), turn) for turn in turns]
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    ("weight", "present", "expected"),
    [
        (100, {"new", "old"}, {"n1", "n2"}),
        (0, {"new", "old"}, {"o1"}),
        (100, {"old"}, {"o1"}),
        (0, {"new"}, {"n1", "n2"}),
    ],
)
def test_a_session_gets_its_revision_if_that_has_a_worker(
    weight: int, present: set[str], expected: set[str]
) -> None:
    everyone = [worker("n1", "new"), worker("n2", "new"), worker("o1", "old")]
    workers = [w for w in everyone if w.revision in present]
    canary = FleetCanary(revision="new", weight=weight)
    assert preferred(workers, canary, b"s") == expected


def test_without_a_canary_all_revisions_are_alike() -> None:
    assert preferred([worker("a", "new"), worker("b", "old")], None, b"s") == {"a", "b"}


def test_after_a_failure_on_trial_the_proven_revision_is_next() -> None:
    ranking = [Choice(Candidate(name), 0, 0, 0) for name in ("n1", "n2", "o1", "o2")]
    trial = frozenset({"n1", "n2"})
    assert [c.id for c in attempts(ranking, trial, 3)] == ["n1", "o1", "o2"]
    assert [c.id for c in attempts(ranking[::-1], trial, 3)] == ["o2", "o1", "n2"]
    assert attempts([], trial, 3) == []
