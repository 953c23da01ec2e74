"""Two real engines: what one has computed the other need not, and nothing that fails is seen."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_adapters
from handoffs import Node, node, source
from tcp_faults import BrokenAnswers
from tiny_models import make
from transformers import AutoModelForCausalLM

from penstock_contract.blocks import block_hashes
from penstock_contract.handoff import LeaseOutcome, PullOutcome
from penstock_contract.kv_events.wire import BlockStored
from penstock_worker.kv_events.log import CacheLog
from penstock_worker.messages import AddRequest, FinishReason, Sampling, Source
from penstock_worker.transfer import pull

GREEDY = Sampling(temperature=0.0)
SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": Sampling(temperature=1.0, seed=7, presence_penalty=0.5),
}
PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(203)]
FULL = 12  # blocks of 16 tokens, all but the last ones of the prompt
BLOCK_BYTES = 2 * 3 * 16 * 2 * 16 * 4  # keys and values, layers, tokens, heads, dimension, float32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make("llama-gqa", folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, list[int]]:
    """What one engine gives that does everything by itself."""
    with node(model) as alone:
        for name, sampling in SAMPLINGS.items():
            alone.add(request(name, sampling=sampling))
        return {name: alone.finish(name) for name in SAMPLINGS}


class Pair:
    """A prefill engine and a decode engine."""

    def __init__(self, stack: ExitStack, model: Path, **changes: Any) -> None:
        self.model = model
        self.prefill: Node = stack.enter_context(node(model, **changes))
        self.decode: Node = stack.enter_context(node(model, **changes))

    def lease(self, prompt: list[int] = PROMPT) -> Source:
        self.prefill.add(request("prefill", prompt, max_tokens=1, keep=True))
        self.prefill.finish("prefill")
        kept = self.prefill.outputs.pop("prefill")[-1].kept
        assert kept is not None
        return source(kept)

    def outcome(self) -> str:
        """Return how the decode engine's only pull ended."""
        (found,) = self.decode.stats.pulls
        assert self.decode.stats.pulls[found] == 1
        return found

    def nothing_is_left(self) -> None:
        """Every block of both engines is free or cached, and nothing is kept or awaited."""
        for one in (self.prefill, self.decode):
            for lease in list(one.handoff.leases._leases):
                one.handoff.release([lease])
            one.counts()
            assert (one.stats.leases, one.stats.leased_blocks) == (0, 0)
            assert one.handoff._waits == {}


@pytest.fixture
def pair(model: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        found = Pair(stack, model)
        yield found
        found.nothing_is_left()


def request(name: str, prompt: list[int] = PROMPT, **options: Any) -> AddRequest:
    return AddRequest(name, prompt, **{"max_tokens": 24, "sampling": GREEDY, **options})


@pytest.mark.parametrize("how", SAMPLINGS)
def test_tokens_are_those_of_one_engine(
    pair: Pair, expected: dict[str, list[int]], how: str
) -> None:
    pair.decode.add(request("r", sampling=SAMPLINGS[how], source=pair.lease()))
    assert pair.decode.finish("r") == expected[how]
    assert pair.outcome() == PullOutcome.COMPLETE
    assert pair.decode.stats.pulled_bytes == FULL * BLOCK_BYTES
    pair.prefill.until(lambda: pair.prefill.stats.lease_ends)
    assert pair.prefill.stats.lease_ends == {LeaseOutcome.PULLED: 1}


def test_what_was_pulled_is_not_computed_and_not_called_cached(pair: Pair) -> None:
    pair.decode.add(request("r", source=pair.lease()))
    pair.decode.finish("r")
    assert pair.decode.steps[0].prefill_tokens == len(PROMPT) - FULL * 16
    assert pair.decode.outputs["r"][0].cached_tokens == 0


def test_what_the_other_worker_had_cached_is_called_cached(pair: Pair) -> None:
    pair.lease()
    pair.decode.add(request("r", source=pair.lease()))
    pair.decode.finish("r")
    assert pair.decode.outputs["r"][0].cached_tokens == FULL * 16


def test_only_what_is_missing_is_pulled(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.decode.add(request("head", PROMPT[:100], max_tokens=1))
    pair.decode.finish("head")
    pair.decode.add(request("r", source=pair.lease()))
    assert pair.decode.finish("r") == expected["greedy"]
    assert pair.decode.stats.pulled_bytes == (FULL - 6) * BLOCK_BYTES
    assert pair.decode.outputs["r"][0].cached_tokens == 96


def test_nothing_is_pulled_where_everything_is_there(pair: Pair) -> None:
    pair.decode.add(request("before"))
    pair.decode.finish("before")
    pair.decode.add(request("r", source=pair.lease()))
    pair.decode.finish("r")
    assert pair.outcome() == PullOutcome.CACHED
    pair.prefill.until(lambda: pair.prefill.stats.lease_ends)
    assert pair.prefill.stats.lease_ends == {LeaseOutcome.RELEASED: 1}


def test_choices_of_one_prompt_share_a_pull(pair: Pair, expected: dict[str, list[int]]) -> None:
    pair.decode.add(request("a", source=pair.lease()))
    pair.decode.add(request("b", beside="a"))
    assert pair.decode.finish("a") == pair.decode.finish("b") == expected["greedy"]
    assert pair.decode.stats.pulls == {PullOutcome.COMPLETE: 1}
    assert pair.decode.steps[0].prefill_tokens == len(PROMPT) - FULL * 16


def test_one_lease_may_be_pulled_twice_at_once(pair: Pair, expected: dict[str, list[int]]) -> None:
    found = pair.lease()
    for name in ("a", "b"):
        pair.decode.add(request(name, source=found))
    assert pair.decode.finish("a") == pair.decode.finish("b") == expected["greedy"]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls do not give up."""
    monkeypatch.setattr(pull, "STALL_SECONDS", 3600.0)


@pytest.mark.usefixtures("patient")
def test_running_requests_go_on_while_blocks_are_awaited(
    pair: Pair, expected: dict[str, list[int]]
) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, stall_after=200) as proxy:
        pair.decode.add(request("waits", source=moved(found, proxy)))
        pair.decode.add(request("runs"))
        assert pair.decode.finish("runs") == expected["greedy"]
        assert "waits" not in pair.decode.outputs
    assert pair.decode.finish("waits") == expected["greedy"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls give up soon when nothing comes."""
    monkeypatch.setattr(pull, "STALL_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "place",
    [0, 4, 9, 30, 60, 120, BLOCK_BYTES, 5 * BLOCK_BYTES, FULL * BLOCK_BYTES + 50],
)
def test_a_changed_bit_is_never_believed(
    pair: Pair, expected: dict[str, list[int]], place: int
) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, flip_at=place) as proxy:
        pair.decode.add(request("r", source=moved(found, proxy)))
        assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() != PullOutcome.COMPLETE


@pytest.mark.parametrize("place", [0, 3, 70, 3 * BLOCK_BYTES + 1000])
def test_a_connection_that_breaks_costs_only_what_had_not_come(
    pair: Pair, expected: dict[str, list[int]], place: int
) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, cut_after=place) as proxy:
        pair.decode.add(request("r", source=moved(found, proxy)))
        assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() == PullOutcome.LOST
    assert pair.decode.stats.pulled_bytes == place // BLOCK_BYTES * BLOCK_BYTES


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_falls_silent_is_not_waited_for(
    pair: Pair, expected: dict[str, list[int]]
) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, stall_after=BLOCK_BYTES) as proxy:
        pair.decode.add(request("r", source=moved(found, proxy)))
        assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() == PullOutcome.LATE


def test_nobody_listens_there_any_more(pair: Pair, expected: dict[str, list[int]]) -> None:
    found = changed(pair.lease(), port=1)
    pair.decode.add(request("r", source=found))
    assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() == PullOutcome.UNREACHABLE


def test_another_epoch_has_none_of_the_blocks(pair: Pair, expected: dict[str, list[int]]) -> None:
    found = pair.lease()
    pair.decode.add(request("r", source=changed(found, epoch="before")))
    assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() == PullOutcome.STALE


def test_a_lease_that_was_released_gives_nothing(
    pair: Pair, expected: dict[str, list[int]]
) -> None:
    found = pair.lease()
    pair.prefill.engine.release([found.lease])
    pair.prefill.step()
    assert pair.prefill.stats.leases == 0
    pair.decode.add(request("r", source=found))
    assert pair.decode.finish("r") == expected["greedy"]
    assert pair.outcome() == PullOutcome.STALE


def test_another_prompt_is_not_answered_with_these_blocks(pair: Pair) -> None:
    other = [*PROMPT[:20], 299, *PROMPT[21:]]
    with node(pair.model) as alone:
        alone.add(request("r", other))
        wanted = alone.finish("r")
    pair.decode.add(request("r", other, source=pair.lease()))
    assert pair.decode.finish("r") == wanted
    assert pair.outcome() == PullOutcome.INCOMPATIBLE


@pytest.mark.usefixtures("patient")
def test_a_cancelled_pull_gives_its_blocks_back_at_once(pair: Pair) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, stall_after=2 * BLOCK_BYTES) as proxy:
        pair.decode.add(request("r", source=moved(found, proxy)))
        pair.decode.until(lambda: proxy.stalled)
        pair.decode.engine.abort(["r"])
        assert pair.decode.counts().used == 0
        assert pair.outcome() == PullOutcome.CANCELLED
        pair.prefill.until(lambda: pair.prefill.stats.lease_ends)
    assert pair.prefill.stats.lease_ends == {LeaseOutcome.RELEASED: 1}


def test_a_deadline_that_passes_ends_the_wait(pair: Pair) -> None:
    found = pair.lease()
    with BrokenAnswers(found.port, stall_after=BLOCK_BYTES) as proxy:
        pair.decode.add(request("r", source=moved(found, proxy), deadline=2.0))
        assert pair.decode.finish("r") == []
        pair.decode.until(lambda: pair.decode.stats.pulls)
    assert pair.decode.outputs["r"][-1].finish_reason is FinishReason.DEADLINE
    assert pair.outcome() == PullOutcome.LATE


def test_what_cannot_be_kept_is_not_promised(model: Path) -> None:
    with node(model, kv_cache_bytes=32 * BLOCK_BYTES, max_model_len=512) as small:
        for name in ("first", "second"):
            small.add(request(name, max_tokens=1, keep=True))
            small.finish(name)
        kept, refused = (small.outputs[name][-1].kept for name in ("first", "second"))
        assert kept is not None
        assert refused is None
        assert small.stats.lease_ends == {LeaseOutcome.REFUSED: 1}
        small.handoff.release([kept["remote_request_id"]])
        assert small.counts().used == 0


def test_a_short_prompt_has_no_blocks_to_keep(pair: Pair) -> None:
    pair.prefill.add(request("r", PROMPT[:16], max_tokens=1, keep=True))
    pair.prefill.finish("r")
    assert pair.prefill.outputs["r"][-1].kept is None
    assert pair.prefill.stats.leases == 0


def test_a_request_waits_while_leases_keep_the_blocks_that_it_needs(model: Path) -> None:
    with node(model, kv_cache_bytes=32 * BLOCK_BYTES, max_model_len=512) as small:
        small.add(request("kept", max_tokens=1, keep=True))
        small.finish("kept")
        small.add(request("long", [*PROMPT[::-1], *PROMPT], max_tokens=60))
        small.until(lambda: small.engine.stalled)
        assert "long" not in small.outputs
        kept = small.outputs["kept"][-1].kept
        assert kept is not None
        small.handoff.release([kept["remote_request_id"]])
        assert len(small.finish("long")) == 60


def test_a_pull_waits_for_room_as_long_as_its_lease(
    model: Path, expected: dict[str, list[int]]
) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, model)
        small = stack.enter_context(node(model, kv_cache_bytes=32 * BLOCK_BYTES))
        small.add(request("long", PROMPT[::-1], max_tokens=200))
        small.until(lambda: small.engine.pool.counts().used > 32 - FULL)
        small.add(request("r", source=pair.lease()))
        small.step()
        assert small.stats.pulls == {}
        assert small.finish("r") == expected["greedy"]
        assert small.stats.pulls == {PullOutcome.COMPLETE: 1}
        small.finish("long")
        assert small.counts().used == 0
        pair.nothing_is_left()


def test_a_prompt_too_long_for_the_pool_is_computed_in_turn(model: Path) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, model)
        small = stack.enter_context(node(model, kv_cache_bytes=32 * BLOCK_BYTES))
        prompt = [*PROMPT, *PROMPT[:80]]
        small.add(request("r", prompt, source=pair.lease(prompt)))
        assert len(small.finish("r")) == 24
        assert small.stats.pulls == {PullOutcome.NO_ROOM: 1}
        pair.nothing_is_left()


def test_who_follows_kv_events_hears_of_pulled_blocks(model: Path) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, model)
        pair.decode.engine.pool.log = log = CacheLog(16)
        pair.decode.add(request("r", source=pair.lease()))
        pair.decode.finish("r")
        (stored,) = log.take()
        assert isinstance(stored, BlockStored)
        assert stored.block_hashes[:FULL] == block_hashes(PROMPT, 16)
        assert stored.token_ids[: FULL * 16] == PROMPT[: FULL * 16]
        pair.nothing_is_left()


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = AutoModelForCausalLM.from_pretrained(model)
    found = {name: tmp_path_factory.mktemp(name) for name in ("first", "second")}
    for seed, folder in enumerate(found.values()):
        tiny_adapters.make(folder, base, seed=seed)
    return {name: str(folder) for name, folder in found.items()}


def test_kv_of_an_adapter_is_handed_over_under_its_own_names(
    model: Path, adapters: dict[str, str]
) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, model, adapters=adapters)
        pair.decode.engine.pool.log = log = CacheLog(16, adapters)
        pair.prefill.add(request("alone", adapter="second"))
        expected = pair.prefill.finish("alone")
        pair.prefill.add(request("kept", max_tokens=1, keep=True, adapter="second"))
        pair.prefill.finish("kept")
        kept = pair.prefill.outputs.pop("kept")[-1].kept
        assert kept is not None
        pair.decode.add(request("r", source=source(kept), adapter="second"))
        assert pair.decode.finish("r") == expected
        assert pair.outcome() == PullOutcome.COMPLETE
        (stored,) = log.take()
        assert isinstance(stored, BlockStored)
        assert (stored.lora_id, stored.lora_name) == (2, "second")
        pair.nothing_is_left()


def test_kv_of_another_adapter_is_no_answer(model: Path, adapters: dict[str, str]) -> None:
    with ExitStack() as stack:
        pair = Pair(stack, model, adapters=adapters)
        pair.decode.add(request("r", source=pair.lease(), adapter="first"))
        found = pair.decode.finish("r")
        assert pair.outcome() != PullOutcome.COMPLETE
        pair.prefill.add(request("alone", adapter="first"))
        assert pair.prefill.finish("alone") == found
        pair.nothing_is_left()


def moved(found: Source, proxy: BrokenAnswers) -> Source:
    return changed(found, port=proxy.port)


def changed(found: Source, **changes: Any) -> Source:
    return msgspec.structs.replace(found, **changes)
