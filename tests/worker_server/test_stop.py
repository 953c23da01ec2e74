"""Stop strings against an oracle that reads the whole text at once."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock_worker.text.stop import StopStrings

TEXTS = st.text(alphabet="abc", max_size=40)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """A text in pieces, cut anywhere."""
    text = draw(TEXTS)
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=10)) | {0, len(text)})
    return [text[a:b] for a, b in pairwise(cuts)]


def shown(pieces: list[str], stops: list[str]) -> str:
    finder = StopStrings(stops)
    text = "".join(finder.feed(piece) for piece in pieces)
    return text if finder.matched else text + finder.flush()


def before_first_complete_stop(text: str, stops: list[str]) -> str:
    """Grow the text by one character at a time; the first stop string that is complete ends it."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@given(pieces=cut_texts(), stop=st.text(alphabet="abc", min_size=1, max_size=5))
def test_one_stop_string_cuts_where_the_oracle_does_however_the_text_is_cut(
    pieces: list[str], stop: str
) -> None:
    assert shown(pieces, [stop]) == before_first_complete_stop("".join(pieces), [stop])


@given(text=TEXTS, stops=STOPS)
def test_several_stop_strings_cut_where_the_oracle_does_letter_by_letter(
    text: str, stops: list[str]
) -> None:
    assert shown(list(text), stops) == before_first_complete_stop(text, stops)


def test_overlapping_stop_strings_cut_alike_however_the_text_is_cut() -> None:
    assert shown(["abcd"], ["abcd", "bc"]) == shown(list("abcd"), ["abcd", "bc"])


@given(pieces=cut_texts(), stops=STOPS)
def test_no_stop_string_is_ever_shown(pieces: list[str], stops: list[str]) -> None:
    assert not any(stop in shown(pieces, stops) for stop in stops)


@given(pieces=cut_texts(), stop=st.text(alphabet="abc", min_size=1, max_size=5))
def test_a_part_of_a_stop_string_never_leaks(pieces: list[str], stop: str) -> None:
    finder = StopStrings([stop])
    final = shown(pieces, [stop])
    seen = ""
    for piece in pieces:
        seen += finder.feed(piece)
        assert final.startswith(seen)


def test_text_that_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    finder = StopStrings(["</end>"])
    assert finder.feed("almost </en") == "almost "
    assert finder.flush() == "</en"
    assert not finder.matched
