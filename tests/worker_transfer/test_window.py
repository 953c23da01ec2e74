"""A model that slides lets its KV go, but not what another worker is to get."""

from pathlib import Path

from handoffs import node, source
from tiny_models import make

from penstock_contract.handoff import PullOutcome
from penstock_worker.messages import AddRequest, Sampling

GREEDY = Sampling(temperature=0.0)
PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(203)]


def test_a_prompt_longer_than_the_window_is_handed_over_and_continued(tmp_path: Path) -> None:
    make("mistral-window", tmp_path)
    with node(tmp_path) as alone, node(tmp_path) as prefill, node(tmp_path) as decode:
        alone.add(AddRequest("a", PROMPT, max_tokens=120, sampling=GREEDY))
        prefill.add(AddRequest("a", PROMPT, max_tokens=1, sampling=GREEDY, keep=True))
        prefill.finish("a")
        kept = prefill.outputs["a"][-1].kept
        assert kept is not None
        decode.add(AddRequest("a", PROMPT, max_tokens=120, sampling=GREEDY, source=source(kept)))
        assert decode.finish("a") == alone.finish("a")
        assert dict(decode.stats.pulls) == {PullOutcome.COMPLETE: 1}
        assert decode.outputs["a"][0].cached_tokens == 0
        prefill.handoff.release([kept["remote_request_id"]])
        assert prefill.counts().used == decode.counts().used == 0
