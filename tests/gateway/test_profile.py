"""What workers say of themselves, and that the gateway asks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_worker import StubWorker

from penstock_contract.step_cost import StepCost
from penstock_gateway.routing.profile import Profile, profile
from penstock_gateway.routing.speed import Speed

METRICS = """\
# TYPE penstock_worker_step_cost_seconds gauge
penstock_worker_step_cost_seconds{model_name="m",term="step"} 0.015
penstock_worker_step_cost_seconds{model_name="m",term="prefill_token"} 0.0002
penstock_worker_step_cost_seconds{model_name="m",term="sequence"} 3e-05
penstock_worker_step_cost_seconds{model_name="m",term="kv_token"} 1e-07
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="1000"} 1.0
"""  # noqa: E501


def test_a_worker_tells_its_speed_and_its_room() -> None:
    cost = StepCost(0.015, 2e-4, 3e-5, 1e-7)
    assert profile(METRICS) == Profile(Speed(0.015, 2e-4, 3e-5), 16_000, cost)


def test_the_engines_of_a_worker_count_together() -> None:
    line = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="10",engine="%d"} 1.0\n'
    assert profile(line % 0 + line % 1).kv_tokens == 320


def test_what_a_worker_does_not_tell_is_not_known() -> None:
    only_room = 'vllm:cache_config_info{num_gpu_blocks="10",block_size="16"} 1.0\n'
    assert profile(only_room) == Profile(None, 160)
    assert profile("") == Profile()


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "0", "1e9", "fast"])
def test_nonsense_is_nothing(value: str) -> None:
    term = 'penstock_worker_step_cost_seconds{model_name="m",term="prefill_token"} '
    assert profile(term + value + "\n").speed is None


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    speed = profile(text).speed
    assert speed is None or speed.token > 0


@pytest.mark.anyio
async def test_the_gateway_asks_each_new_worker_once(gateway: Any) -> None:
    async with StubWorker(metrics=METRICS) as told, StubWorker() as silent:
        await gateway.serve(told, silent)

        async def read() -> bool:
            return f"worker w{told.port}: Speed(start=0.015" in gateway.said()

        await gateway.until(read)
        assert told.scrapes == 1
        assert "16000 tokens of KV" in gateway.said()
