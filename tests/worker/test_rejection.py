"""Guesses that are drawn and rejected leave the target's distribution as it is.

All numbers are hashes of fixed seeds, so these tests give the same result every time.
"""

from collections import Counter
from itertools import product

import pytest
import torch
from engines import drain
from torch import Tensor

from penstock_worker.attention.pool import KVPool
from penstock_worker.block_pool import BlockPool
from penstock_worker.engine import Engine
from penstock_worker.messages import AddRequest, Sampling
from penstock_worker.model.interface import Batch
from penstock_worker.random_sampling import probabilities, propose
from penstock_worker.runner import ModelRunner
from penstock_worker.sampling import Guess, Row, choose
from penstock_worker.speculative.draft_model import DraftModel
from penstock_worker.speculative.guesses import Vocabulary

DRAWS = 20_000
FILTERS = {
    "none": Sampling(),
    "warm": Sampling(temperature=1.7),
    "top_k": Sampling(top_k=3),
    "top_p": Sampling(top_p=0.8),
    "min_p": Sampling(temperature=0.8, min_p=0.1),
}


def chi_square(counts: list[int], chances: list[float]) -> float:
    total = sum(counts)
    assert not any(count for count, chance in zip(counts, chances, strict=True) if chance == 0)
    return sum(
        (count - total * chance) ** 2 / (total * chance)
        for count, chance in zip(counts, chances, strict=True)
        if chance
    )


def bound(cells: int) -> float:
    """Return what chi-square with so many cells exceeds once in a thousand times, or less often."""
    freedom = cells - 1
    return float(freedom * (1 - 2 / (9 * freedom) + 3.29 * (2 / (9 * freedom)) ** 0.5) ** 3)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_or_drawn_follows_the_target(filters: str, seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    target, draft = (torch.randn(1, 7, generator=noise) for _ in range(2))
    wanted = FILTERS[filters]
    rows = [
        Sampling(
            temperature=wanted.temperature,
            top_k=wanted.top_k,
            top_p=wanted.top_p,
            min_p=wanted.min_p,
            seed=number,
        )
        for number in range(DRAWS)
    ]
    places = [seed] * DRAWS
    mass = probabilities(draft.expand(DRAWS, -1), rows)
    guesses = propose(mass, rows, places).tolist()
    tokens = choose(
        target.repeat(DRAWS, 1),
        [
            Row(how, seed, guess=Guess(guess, drawn_from))
            for how, guess, drawn_from in zip(rows, guesses, mass, strict=True)
        ],
    ).tolist()
    expected = probabilities(target, [wanted])[0]
    counts = Counter(tokens)
    assert chi_square([counts[token] for token in range(7)], expected.tolist()) < bound(7)
    kept = sum(one == other for one, other in zip(tokens, guesses, strict=True)) / DRAWS
    assert kept == pytest.approx(float(torch.minimum(expected, mass[0]).sum()), abs=0.015)


def test_chances_depend_on_no_neighbour() -> None:
    wanted = list(FILTERS.values())
    logits = torch.randn(len(wanted), 7, generator=torch.Generator().manual_seed(1))
    together = probabilities(logits, wanted)
    for row, how in enumerate(wanted):
        assert torch.equal(together[row : row + 1], probabilities(logits[row : row + 1], [how]))
        assert float(together[row].sum()) == pytest.approx(1.0)


class Chain:
    """A model that looks at the last token only."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def logits(self, batch: Batch) -> Tensor:
        return self.table[[batch.tokens[row] for row in batch.output_rows]].clone()

    def greedy(self, batch: Batch) -> list[int]:
        found: list[int] = self.logits(batch).argmax(-1).tolist()
        return found


def test_whole_answers_are_as_likely_as_without_guesses() -> None:
    noise = torch.Generator().manual_seed(5)
    tables = [torch.randn(3, 3, generator=noise) for _ in range(2)]
    pool = KVPool(
        num_layers=1, num_kv_heads=1, head_dim=1, num_blocks=512, block_size=8, dtype=torch.float32
    )
    engine = Engine(
        ModelRunner(Chain(tables[0]), pool),
        BlockPool(512, 8),
        vocab_size=3,
        max_model_len=64,
        max_num_seqs=256,
        max_num_batched_tokens=4096,
        proposer=DraftModel(
            Chain(tables[1]),
            num_blocks=512,
            block_size=8,
            vocabulary=Vocabulary(3, 3),
            most=3,
            budget=4096,
        ),
    )
    asked = 6000
    for number in range(asked):
        assert engine.add(AddRequest(str(number), [0], 4, Sampling(seed=number))) is None
    said: dict[str, list[int]] = {}
    right = 0
    for batch in drain(engine):
        right += sum(batch.stats.drafted.accepted) if batch.stats.drafted else 0
        for output in batch.outputs:
            said.setdefault(output.id, []).extend(output.tokens)
    assert right > asked / 2
    counts = Counter(map(tuple, said.values()))
    chances = tables[0].double().softmax(-1)
    texts = list(product(range(3), repeat=4))
    expected = [
        float(torch.stack([chances[a, b] for a, b in zip((0, *text), text, strict=False)]).prod())
        for text in texts
    ]
    assert chi_square([counts[text] for text in texts], expected) < bound(len(texts))
