"""Which routes a model has, by what it is for."""

import pytest

from penstock_contract.api.engine import Task
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.tasks import EMBEDDINGS, RERANK, SCORE, refuse_other_task

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (Task.GENERATE, EMBEDDINGS),
        (Task.GENERATE, SCORE),
        (Task.EMBED, CHAT),
        (Task.SCORE, "/v1/completions"),
        (Task.SCORE, EMBEDDINGS),
    ],
)
def test_a_route_of_another_task_is_refused_by_name(task: Task, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        refuse_other_task("m", task, path)
    assert refused.value.code is ErrorCode.TASK_NOT_SUPPORTED
    assert "'m'" in refused.value.message
    assert path in refused.value.message


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (Task.GENERATE, CHAT),
        (Task.EMBED, EMBEDDINGS),
        (Task.EMBED, RERANK[0]),
        (Task.SCORE, RERANK[1]),
        (Task.SCORE, "/tokenize"),
        (Task.AUTO, EMBEDDINGS),
    ],
)
def test_a_route_of_the_model_is_open(task: Task, path: str) -> None:
    refuse_other_task("m", task, path)
