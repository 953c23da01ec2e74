"""What the rest of a stream teaches of the worker that goes on with it: nothing of its speed."""

from types import SimpleNamespace
from typing import Any

import pytest

from penstock_contract.api import Role
from penstock_contract.fleet import FleetWorker
from penstock_gateway.build import is_compiled
from penstock_gateway.relay.attempt import Attempt
from penstock_gateway.routing.observation import observation_of
from penstock_gateway.routing.prefix_index import PrefixIndex
from penstock_gateway.routing.prompt_usage import PromptUsage
from penstock_gateway.routing.router import Router
from penstock_gateway.routing.ticket import Prompt

WORKER = FleetWorker(id="w", url="http://w", deployment="d", pool="p", role=Role.UNIFIED)
NOW = 100.0


@pytest.mark.skipif(is_compiled(), reason="compiled classes take no stand-ins")
@pytest.mark.parametrize(("begun", "took"), [(False, 2.0), (True, None)])
def test_a_stream_that_goes_on_teaches_no_cost_of_prompts(begun: bool, took: float | None) -> None:
    """Its answer so far is computed with the prompt: the prompt alone would look dear."""
    router, prompt = Router(PrefixIndex()), Prompt(size=8000)
    (choice,) = router.rank([WORKER], prompt, tie=0.0, now=NOW)
    context: Any = SimpleNamespace(router=router, clock=lambda: NOW)
    admitted: Any = SimpleNamespace(prompt=prompt)
    answer: Any = SimpleNamespace(begun=begun)
    progress: Any = SimpleNamespace(handoff=None)
    attempt = Attempt(context, admitted, answer, progress, WORKER, choice)
    assert observation_of(attempt._ticket, NOW + 2.0, PromptUsage()).took == took
