"""How inputs are packed for attention, and whose inputs are computed next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.messages import AddInputs, AddRequest, FinishReason
from penstock_worker.pooling.engine import PoolingEngine
from penstock_worker.pooling.fairness import FairQueue, Job
from penstock_worker.pooling.packing import FREE, LOOSE, groups

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=60).map(sorted)
sizes = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(lengths)
def test_groups_cover_every_input_once_and_in_order(rising: list[int]) -> None:
    found = groups(rising)
    assert [length for group in found for length in group.lengths] == rising
    row = 0
    for group in found:
        assert group.first_row == row
        row += group.rows
    assert row == sum(rising)


@given(lengths)
def test_padding_is_bounded(rising: list[int]) -> None:
    for group in groups(rising):
        assert group.longest <= LOOSE * group.lengths[0] + FREE
        assert group.even == (len(set(group.lengths)) == 1)


def drain(queue: FairQueue, tokens: int = 64, inputs: int = 8) -> list[list[tuple[str, int]]]:
    steps = []
    while found := queue.take(tokens, inputs):
        steps.append([(job.id, index) for job, index in found])
        for job, _ in found:
            job.left -= 1
            if not job.left:
                queue.complete(job)
    return steps


@given(st.lists(sizes, min_size=1, max_size=8))
def test_every_input_has_its_turn_once(requests: list[list[int]]) -> None:
    queue = FairQueue()
    for number, wanted in enumerate(requests):
        queue.add(Job(str(number), wanted))
    taken = [one for step in drain(queue) for one in step]
    everything = {(str(n), i) for n, wanted in enumerate(requests) for i in range(len(wanted))}
    assert len(taken) == len(everything)
    assert set(taken) == everything
    assert not queue.jobs


@given(st.lists(sizes, min_size=1, max_size=8), st.integers(1, 100), st.integers(1, 10))
def test_a_step_keeps_its_budgets(requests: list[list[int]], tokens: int, inputs: int) -> None:
    queue = FairQueue()
    for number, wanted in enumerate(requests):
        queue.add(Job(str(number), wanted))
    for step in drain(queue, tokens, inputs):
        assert len(step) <= inputs
        used = sum(requests[int(name)][index] for name, index in step)
        assert used <= tokens or len(step) == 1


def test_one_large_import_does_not_stop_the_others() -> None:
    queue = FairQueue()
    queue.add(Job("import", [10] * 1000))
    drained = [queue.take(20, 8) for _ in range(5)]
    assert all(job.id == "import" for step in drained for job, _ in step)
    queue.add(Job("question", [10]))
    assert any(job.id == "question" for step in (queue.take(20, 8),) for job, _ in step)


def test_a_higher_priority_comes_first() -> None:
    queue = FairQueue()
    queue.add(Job("low", [10, 10]))
    queue.add(Job("high", [10, 10], priority=1))
    assert [job.id for job, _ in queue.take(40, 3)] == ["high", "high", "low"]


def test_what_was_removed_is_not_computed() -> None:
    queue = FairQueue()
    queue.add(Job("a", [10, 10]))
    queue.add(Job("b", [10]))
    queue.remove(["a", "unknown"])
    assert [job.id for job, _ in queue.take(40, 8)] == ["b"]


class Echo:
    """Gives each input's length as its vector."""

    def compute(self, inputs: object) -> object:
        import torch

        assert isinstance(inputs, list)
        return torch.tensor([[float(len(one.tokens))] for one in inputs])


def engine(now: list[float]) -> PoolingEngine:
    model: object = Echo()
    return PoolingEngine(
        model,  # type: ignore[arg-type]
        vocab_size=100,
        max_tokens=16,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        clock=lambda: now[0],
    )


def test_an_engine_tells_what_came_of_each_input() -> None:
    import numpy

    subject = engine([0.0])
    assert subject.add(AddInputs("a", [[1] * 10, [2] * 16, [3] * 7])) is None
    first, second = subject.step(), subject.step()
    assert not subject.busy
    found = {**first.outputs[0].vectors, **second.outputs[0].vectors}
    assert [numpy.frombuffer(found[n], "<f4").tolist() for n in range(3)] == [[10], [16], [7]]
    ends = [batch.outputs[0].finish_reason for batch in (first, second)]
    assert ends == [None, FinishReason.STOP]
    assert first.stats.prefill_tokens == 26
    assert (first.stats.running, subject.stats().running) == (1, 0)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (AddInputs("x", [[]]), "1 to 16"),
        (AddInputs("x", [[1] * 17]), "1 to 16"),
        (AddInputs("x", [[100]]), "0 to 99"),
        (AddInputs("x", [[-1]]), "0 to 99"),
        (AddInputs("x", []), "an input"),
        (AddInputs("x", [[1]], seconds=[0, 0]), "seconds"),
        (AddRequest("x", [1], 1), "generates nothing"),
    ],
)
def test_an_engine_refuses_what_would_fail_a_step(
    message: AddInputs | AddRequest, named: str
) -> None:
    subject = engine([0.0])
    refusal = subject.add(message)
    assert refusal is not None
    assert refusal.finish_reason is FinishReason.ABORT
    assert named in refusal.error
    assert not subject.busy


def test_a_request_past_its_deadline_is_given_up() -> None:
    now = [0.0]
    subject = engine(now)
    subject.add(AddInputs("late", [[1]] * 9, deadline=1.0))
    subject.step()
    now[0] = 2.0
    found = subject.step()
    assert [output.finish_reason for output in found.outputs] == [FinishReason.DEADLINE]
    assert not subject.busy


def test_an_aborted_request_is_forgotten() -> None:
    subject = engine([0.0])
    subject.add(AddInputs("a", [[1]] * 9))
    subject.step()
    subject.abort(["a"])
    assert not subject.busy
    assert subject.stats().waiting == 0
