"""An EAGLE-3 head: it computes what its authors meant, and what it guesses changes no output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_adapters
import tiny_models
import torch
from engines import GREEDY, drain
from kernels import native_library
from tiny_heads import TAPS, make_head
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from penstock_worker.attention.interface import Sequence as Rows
from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.engine_builder import build_engine
from penstock_worker.engine_config import EngineConfig
from penstock_worker.messages import AddRequest, Batch, Sampling
from penstock_worker.model.config import read_config
from penstock_worker.model.interface import Batch as ModelBatch
from penstock_worker.model.interface import Model
from penstock_worker.model.loading import ExecutionConfig, load_model
from penstock_worker.speculative.draft_model import DraftModel
from penstock_worker.speculative.head_config import read_head
from penstock_worker.speculative.head_opening import HeadDraft, TappedHead
from penstock_worker.speculative.paced import PacedProposer

EXAMPLE = Path(__file__).parents[2] / "examples" / "model"
BLOCK = 16
TOKENS = [(7 * place + place * place) % 320 for place in range(90)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_models.make("llama-gqa", folder)
    return folder


def execution(kernels: str) -> ExecutionConfig:
    if kernels == "torch":
        return ExecutionConfig()
    if native_library() is None:
        pytest.skip("no C++ compiler")
    return ExecutionConfig(kernels=native_library())


def opened(model: Path, head: Path, kernels: str) -> tuple[Model, Model, TappedHead]:
    """Return a model that is tapped, and the head that taps it."""
    how, shape = execution(kernels), read_config(model)
    draft = HeadDraft(head, read_head(head, shape), how, model, shape, BLOCK).tapped(32)
    kept = KVPool.of(shape, 32, BLOCK, how.dtype)
    target = load_model(model, shape, kept, shape.max_position, how, tap=draft.tap)
    own = KVPool.of(draft.shape, 32, BLOCK, how.dtype)
    return target, draft.load(own, shape.max_position), draft


def step(tokens: Sequence[int], start: int, end: int, blocks: list[int]) -> ModelBatch:
    return ModelBatch(
        tokens=list(tokens[start:end]),
        positions=list(range(start, end)),
        sequences=[Rows(0, end - start, start, blocks)],
        output_rows=[end - start - 1],
    )


def guessed(target: Model, head: Model, ends: Sequence[int]) -> list[int]:
    """Return guesses in a row behind the tokens, of which the last one is not computed yet."""
    blocks = [9, 3, 17, 5, 30, 1, 12]
    for start, end in zip([0, *ends], [*ends, len(TOKENS) - 1], strict=True):
        target.greedy(step(TOKENS, start, end, blocks))
    known, start = list(TOKENS), 0
    for _ in range(4):
        logits = head.logits(step(known, start, len(known), blocks))
        start = len(known)
        known.append(int(logits.argmax()))
    return known[len(TOKENS) :]


def expected(model: Path, tensors: dict[str, Tensor], normed: bool) -> list[int]:
    """Compute the same as published: row i has what was thought of token i, and token i + 1."""
    target = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    words = tensors.get("embed_tokens.weight", target.model.embed_tokens.weight)
    with torch.no_grad():
        found = target(torch.tensor([TOKENS[:-1]]), output_hidden_states=True)
        taps = [state[0] for state in found.hidden_states]
        captured: list[Tensor] = []
        target.model.norm.register_forward_pre_hook(lambda _, x: captured.append(x[0][0]))
        target(torch.tensor([TOKENS[:-1]]))
        taps[-1] = captured[0]  # transformers norms the last one
        states = torch.cat([taps[tap] for tap in TAPS], -1) @ tensors["fc.weight"].T
        states, known = states.bfloat16().float(), list(TOKENS)
        says = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
        for _ in range(4):
            thought = layer(tensors, words[known[1:]].float(), states, normed)[-1]
            logits = rms(thought, tensors["norm.weight"]) @ tensors["lm_head.weight"].T
            known.append(int(says[logits.argmax()]))
            states = torch.cat([states, thought[None].bfloat16().float()])
    return known[len(TOKENS) :]


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, 1e-5)


def layer(tensors: dict[str, Tensor], words: Tensor, states: Tensor, normed: bool) -> Tensor:
    def of(name: str) -> Tensor:
        return tensors[f"midlayer.{name}.weight"]

    thought = rms(states, of("hidden_norm"))
    x = torch.cat([rms(words, of("input_layernorm")), thought], -1)
    q, k, v = (x @ of(f"self_attn.{name}_proj").T for name in "qkv")
    angles = torch.outer(torch.arange(len(x)).float(), 10000.0 ** -(torch.arange(16) / 16))

    def turned(heads: Tensor) -> Tensor:
        a, b = heads.view(len(x), -1, 2, 16).unbind(2)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    scores = torch.einsum("qhd,kd->hqk", turned(q), turned(k)[:, 0]) / 32**0.5
    weights = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf).softmax(-1)
    attended = torch.einsum("hqk,kd->qhd", weights, v).flatten(1)
    x = (thought if normed else states) + attended @ of("self_attn.o_proj").T
    inner = rms(x, of("post_attention_layernorm"))
    gate, up = inner @ of("mlp.gate_proj").T, inner @ of("mlp.up_proj").T
    result: Tensor = x + (functional.silu(gate) * up) @ of("mlp.down_proj").T
    return result


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("layout", ["flat", "speculators"])
@pytest.mark.parametrize("ends", [[], [1, 30, 31, 64]], ids=["whole", "chunks"])
def test_a_head_guesses_what_its_authors_meant(
    kernels: str, layout: str, ends: list[int], model: Path, tmp_path: Path
) -> None:
    normed = layout == "speculators"
    tensors = make_head(tmp_path, speculators=normed, norm_before_residual=normed)
    target, head, _ = opened(model, tmp_path, kernels)
    assert guessed(target, head, ends) == expected(model, tensors, normed)


def plain(method: str = "none", **options: Any) -> Engine:
    """Return an engine on the example model that guesses as often as it can."""
    head = str(EXAMPLE / "eagle") if method == "eagle3" else ""
    settings = {"kv_cache_bytes": 16 << 20, "threads": 1, **options}
    config = EngineConfig(str(EXAMPLE), speculative=method, speculative_model=head, **settings)
    engine, _ = build_engine(config)
    return engine


class Always:
    """Guesses in every step, whatever the clock says."""

    def __init__(self, engine: Engine) -> None:
        found = engine._proposer
        assert isinstance(found, PacedProposer)
        assert isinstance(found._proposer, DraftModel)
        engine._proposer = found._proposer


def guessing(**options: Any) -> Engine:
    engine = plain("eagle3", **options)
    Always(engine)
    return engine


def run(engine: Engine, asked: list[AddRequest]) -> tuple[dict[str, list[int]], list[Batch]]:
    for message in asked:
        assert engine.add(message) is None
    batches = drain(engine)
    assert engine.pool.counts().used == 0
    found: dict[str, list[int]] = {message.id: [] for message in asked}
    for batch in batches:
        for output in batch.outputs:
            found[output.id] += output.tokens
    return found, batches


def counted(batches: list[Batch]) -> tuple[int, int]:
    """Return how many tokens were guessed, and how many of them were right."""
    found = [batch.stats.drafted for batch in batches if batch.stats.drafted]
    return sum(one.tokens for one in found), sum(sum(one.accepted) for one in found)


SAMPLINGS = {
    "greedy": GREEDY,
    "seeded": Sampling(seed=3, temperature=0.8, repeatable=True),
    "penalties": Sampling(temperature=0.0, presence_penalty=0.4, repetition_penalty=1.1),
    "filters": Sampling(seed=3, temperature=1.1, top_k=9, top_p=0.9, logprobs=2, repeatable=True),
}
PROMPT = [(31 * place + 17) % 3000 + 300 for place in range(70)]


def questions(sampling: Sampling, count: int = 3, length: int = 40) -> list[AddRequest]:
    return [
        AddRequest(str(n), PROMPT[: 70 - 9 * n], length, sampling, priority=n) for n in range(count)
    ]


@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_model_says_the_same_whatever_a_head_guesses(sampling: str, kernels: str) -> None:
    execution(kernels)
    messages = questions(SAMPLINGS[sampling])
    tokens, batches = run(guessing(kernels=kernels), messages)
    assert tokens == run(plain(kernels=kernels), messages)[0]
    right_of, right = counted(batches)
    assert right_of > right > 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_num_batched_tokens": 23},
        {"kv_cache_bytes": 720 << 10, "max_model_len": 112},  # a dozen blocks
        {"prefix_caching": False},
        {"block_size": 8, "max_num_batched_tokens": 17},
        {"quantization": "int8", "speculative_quantization": "int8"},
    ],
    ids=["chunks", "preempted", "uncached", "small", "int8"],
)
def test_what_is_guessed_does_not_depend_on_how_it_came_to_be_computed(
    options: dict[str, Any],
) -> None:
    execution("native")
    engine = guessing(**options)
    quantised = {key: value for key, value in options.items() if "quantization" in key}
    alone = guessing(**quantised)
    plainly: dict[str, list[int]] = {}
    right = 0
    for message in questions(GREEDY):
        tokens, batches = run(alone, [message])
        plainly |= tokens
        right += counted(batches)[1]
    for _ in range(2):  # the second time the prefix cache has most of it
        tokens, batches = run(engine, questions(GREEDY))
        assert tokens == plainly
        assert counted(batches)[1] == pytest.approx(right, rel=0.2)
    assert (engine.scheduler.preemptions > 0) == ("max_model_len" in options)


def test_kv_in_bytes_serves_a_head_too() -> None:
    execution("native")
    kept: dict[str, Any] = {
        "kv_cache_dtype": "int8_per_token_head",
        "max_num_batched_tokens": 23,
    }
    tokens, batches = run(guessing(**kept), questions(GREEDY))
    assert tokens == run(plain(**kept), questions(GREEDY))[0]
    assert counted(batches)[1] > 0


@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_a_head_guesses_for_adapters_from_what_they_think(kernels: str, tmp_path: Path) -> None:
    execution(kernels)
    base = AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32)
    tiny_adapters.make(tmp_path, base, size=0.05)
    options: dict[str, Any] = {"kernels": kernels, "adapters": {"a": str(tmp_path)}}
    messages = [
        AddRequest(f"{one.id}{name}", one.prompt, one.max_tokens, GREEDY, adapter=name)
        for one in questions(GREEDY)
        for name in ("", "a")
    ]
    engine = guessing(**options)
    expected = run(plain(**options), messages)[0]
    assert expected["0"] != expected["0a"]
    for _ in range(2):  # the second time the prefix cache has most of it
        tokens, batches = run(engine, messages)
        assert tokens == expected
        assert counted(batches)[1] > 0


def test_choices_share_a_prompt_and_what_was_thought_of_it() -> None:
    wanted = [
        AddRequest(
            str(n), PROMPT, 30, Sampling(seed=5, choice=n, repeatable=True), beside="0" if n else ""
        )
        for n in range(4)
    ]
    tokens, batches = run(guessing(), wanted)
    assert tokens == run(plain(), wanted)[0]
    assert counted(batches)[1] > 0


def test_features_take_their_share_of_the_room_for_kv() -> None:
    def blocks(engine: Engine) -> int:
        pool: BlockPool = engine.pool
        return pool.num_blocks

    without, beside = blocks(plain()), blocks(plain("eagle3"))
    shape, head = read_config(EXAMPLE), read_head(EXAMPLE / "eagle", read_config(EXAMPLE))
    kv = shape.kv_bytes_per_token // 2
    more = head.shape.kv_bytes_per_token // 2 + 2 * shape.hidden_size
    assert beside == pytest.approx(without * kv / (kv + more), abs=1)
