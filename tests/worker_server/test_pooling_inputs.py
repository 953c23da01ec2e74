"""From texts to tokens, without more memory than the answer takes."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoders import CLS, SEP, WORDS, ids, tokenizer, words
from worker_process import EXAMPLE_MODEL, NAME

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.grammar import Grammars
from penstock_worker.server.pooling_inputs import MAX_TOKENS, pair_inputs
from penstock_worker.server.served import Served
from penstock_worker.text.chat_template import ChatTemplate
from penstock_worker.text.tokenizer import PORTION, Tokenizer

LONGEST = 20_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save(str(folder / "tokenizer.json"))
    grammars, template = Grammars(EXAMPLE_MODEL, WORDS, ()), ChatTemplate(EXAMPLE_MODEL)
    return Served((NAME,), Tokenizer(folder), template, (), LONGEST, WORDS + 4, grammars)


def plain(text: str) -> list[int]:
    return ids(text)[1:-1]


def pulled(items: list[str], seen: list[str]) -> Iterator[str]:
    for item in items:
        seen.append(item)
        yield item


def test_a_query_cannot_make_a_short_body_long_work(served: Served) -> None:
    pairs = [(words(1000), words(1))] * (MAX_TOKENS // 1004 + 1)
    with pytest.raises(ApiError, match="all together") as refused:
        pair_inputs(served, pairs, -1, "documents")
    assert (refused.value.code, refused.value.param) == (ErrorCode.INVALID_REQUEST, "documents")
    assert pair_inputs(served, pairs[:-1], -1, "documents").count == 1004 * len(pairs[:-1])


def test_a_query_that_cannot_fit_is_refused_before_it_is_tokenised(served: Served) -> None:
    query = "w1 " * (8 * 5 * LONGEST)
    with pytest.raises(ApiError, match="letters to be compared with") as refused:
        pair_inputs(served, [(query, "w1")] * 2048, -1, "documents")
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


def test_texts_are_tokenised_as_the_answer_is_taken(served: Served) -> None:
    seen: list[str] = []
    texts = [words(PORTION // 8)] * 12
    found = served.tokenizer.encode_texts(pulled(texts, seen), add_special_tokens=True)
    next(found)
    assert len(seen) < len(texts)
    assert len(list(found)) == len(texts) - 1


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6), most=st.integers(2, 12) | st.none()
)
def test_a_text_loses_its_end_and_keeps_its_marks(
    served: Served, counts: list[int], most: int | None
) -> None:
    texts = [words(count) for count in counts]
    found = served.tokenizer.encode_texts(texts, add_special_tokens=True, most=most)
    keep = None if most is None else most - 2
    assert list(found) == [[CLS, *plain(text)[:keep], SEP] for text in texts]


@given(
    counts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6),
    most=st.integers(11, 20) | st.none(),
)
def test_a_pair_loses_the_end_of_its_second_text(
    served: Served, counts: list[tuple[int, int]], most: int | None
) -> None:
    pairs = [(words(one), words(two, 1)) for one, two in counts]
    found = served.tokenizer.encode_pairs(pairs, most=most)
    for (one, two), (tokens, second) in zip(pairs, found, strict=True):
        first = [CLS, *plain(one), SEP]
        room = None if most is None else most - len(first) - 1
        assert tokens == [*first, *plain(two)[:room], SEP]
        assert second == len(first)
