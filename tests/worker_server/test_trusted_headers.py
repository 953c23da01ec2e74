"""What the gateway says in headers: priority, deadline, tenant."""

import itertools

import httpx
import plain_http
import pytest
from waiting import PATIENCE
from worker_process import NAME, WorkerProcess, eventually

from penstock_contract import headers
from penstock_contract.errors import ApiError
from penstock_worker.server.trusted import Trusted


def _complete(served: WorkerProcess, sent: dict[str, str], **body: object) -> httpx.Response:
    body = {"model": NAME, "prompt": "def spam(", "max_tokens": 4, **body}
    return plain_http.post(f"{served.url}/v1/completions", json=body, headers=sent)


def _cached(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_tenants_share_no_cached_prefix_even_with_equal_salts_of_their_own(
    served: WorkerProcess,
) -> None:
    prompt = list(range(100, 200))
    for salt in (None, "mine"):
        own = {} if salt is None else {"cache_salt": salt}
        one, other = {headers.CACHE_SALT: "tenant-a"}, {headers.CACHE_SALT: "tenant-b"}
        assert _cached(_complete(served, one, prompt=prompt, **own)) == 0
        assert _cached(_complete(served, one, prompt=prompt, **own)) == 96
        assert _cached(_complete(served, other, prompt=prompt, **own)) == 0


@pytest.mark.parametrize("left", ["0", "-1", "0.000001"])
def test_time_that_is_up_is_told_as_such(served: WorkerProcess, left: str) -> None:
    answer = _complete(served, {headers.DEADLINE: left}, max_tokens=200, ignore_eos=True)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (headers.PRIORITY, "high"),
        (headers.PRIORITY, str(1 << 31)),
        (headers.DEADLINE, "soon"),
        (headers.DEADLINE, "nan"),
        (headers.DEADLINE, "inf"),
        (headers.CACHE_SALT, "x" * 65),
        (headers.TPOT_OBJECTIVE, "fast"),
        (headers.TPOT_OBJECTIVE, "0"),
        (headers.TPOT_OBJECTIVE, "nan"),
    ],
)
def test_a_header_without_meaning_is_refused_by_name(header: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        Trusted.of({header: value})
    assert caught.value.param == header


def test_a_pace_is_asked_for_in_seconds_and_by_nobody_else_than_the_gateway() -> None:
    assert Trusted.of({headers.TPOT_OBJECTIVE: "0.05"}).tpot == 0.05
    assert Trusted.of({}).tpot is None


def _cut_steps(served: WorkerProcess, sent: dict[str, str], first: int) -> float:
    """Return the steps that were cut while a prompt, told by its first token, joined a stream."""
    name = "penstock_worker_bounded_steps_total"
    before = served.metric(name)
    body = {"model": NAME, "prompt": "def spam(", "max_tokens": 480, "ignore_eos": True}
    url = f"{served.url}/v1/completions"
    with httpx.stream(
        "POST", url, json={**body, "stream": True}, headers=sent, timeout=PATIENCE
    ) as s:
        lines = s.iter_lines()
        next(lines)  # and the stream goes on while the other is answered
        _complete(served, {}, prompt=[first, *range(100, 500)], max_tokens=1)
    return served.metric(name) - before


def test_prompts_are_cut_beside_a_stream_that_asks_for_a_pace(served: WorkerProcess) -> None:
    firsts = itertools.count(500)
    assert _cut_steps(served, {}, next(firsts)) == 0
    hasty = {headers.TPOT_OBJECTIVE: "0.0001"}
    eventually(lambda: _cut_steps(served, hasty, next(firsts)) > 0, "a prompt is cut")


def test_the_gateways_priority_overrules_the_bodys() -> None:
    assert Trusted.of({headers.PRIORITY: "-10"}).priority == -10
    assert Trusted.of({}).priority is None
