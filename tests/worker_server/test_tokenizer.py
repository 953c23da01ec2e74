"""Text from tokens one at a time must be the text from all tokens at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.text.tokenizer import Tokenizer, TokenizerError

# U+FFFD is what a decoder shows for half a character: at the end the two cannot be told apart.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60)


def streamed(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> list[str]:
    stream = tokenizer.stream(prompt, skip_special_tokens=True)
    return [stream.feed(token) for token in output]


@given(text=TEXT)
def test_joined_pieces_are_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(streamed(tokenizer, [], ids)) == tokenizer.decode(ids) == text


@given(prompt=TEXT, text=TEXT)
def test_a_prompt_in_front_changes_nothing(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    before = tokenizer.encode(prompt, add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(streamed(tokenizer, before, ids)) == text


def test_a_character_of_several_tokens_comes_whole_with_its_last_token(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode("𓀀", add_special_tokens=False)
    assert len(ids) > 1
    assert streamed(tokenizer, [], ids) == [""] * (len(ids) - 1) + ["𓀀"]


def test_half_a_character_at_the_end_never_appears(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 𓀀", add_special_tokens=False)[:-1]
    assert "".join(streamed(tokenizer, [], ids)).strip() == "ok"


def test_after_a_prompt_that_ends_inside_a_character_only_new_text_comes(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode("x𓀀!", add_special_tokens=False)
    half = len(tokenizer.encode("x𓀀", add_special_tokens=False)) - 1
    assert "x" not in "".join(streamed(tokenizer, ids[:half], ids[half:]))


def test_special_tokens_are_shown_only_on_demand(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|end|>", add_special_tokens=False)
    assert tokenizer.decode(ids) == ""
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|end|>"


@pytest.mark.parametrize("content", [None, "not JSON", "{}"])
def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
