"""Grammars that an output must follow: JSON of a schema, a regular expression, a choice.

The library (llguidance) reads the grammar lazily: nothing is compiled to an automaton in advance,
which for a hostile schema could take hours. What a grammar may cost, when it is read and in every
step, is bounded by `limits`. A matcher is a function of the tokens it has seen, so after preemption
or on another worker it is rebuilt by replaying them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

REMEMBERED = 32
"""Grammars whose reading is not repeated; most callers send the same few."""

FORCED_TOKENS = 8
"""Guessed at once, where a grammar leaves no choice."""


class GrammarError(ValueError):
    """The grammar cannot be read, is too large, or became too complex on the way."""


def limits() -> LLParserLimits:
    """Return what a grammar may cost: a few hundred milliseconds and some 50 MB at the worst."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=25_000,
        max_grammar_size=100_000,
        verbose_errors=False,  # they would quote the schema
    )


class Matcher:
    """Follows one output through its grammar.

    Args:
        inner: at the start of the output.
        ends: tokens that may be drawn once the output is complete.
        start: tokens of the prompt, which lie in front of the output.
    """

    def __init__(self, inner: LLMatcher, ends: Sequence[int], start: int = 0) -> None:
        self._inner = inner
        self._ends = ends
        self._seen = start

    def allowed(self, tokens: Sequence[int], drafts: Sequence[int] = ()) -> list[bytes]:
        """Return the tokens that may come next, and behind each draft if those before it stand.

        Args:
            tokens: prompt and output so far, which only ever grow.
            drafts: guessed tokens behind them, which the grammar allows (see `guess`).

        Returns a bit for each token, the lowest bit first.

        Raises:
            GrammarError: the output cannot be followed any further.
        """
        self._follow(tokens)
        masks = [self._mask()]
        for draft in drafts:
            self._inner.consume_token(draft)
            masks.append(self._mask())
        if drafts:
            self._inner.rollback(len(drafts))
        return masks

    def guess(self, tokens: Sequence[int], proposed: Sequence[int]) -> list[int]:
        """Return tokens that are likely to come next: forced ones, or what holds of a proposal.

        Where the grammar leaves one text only, such as the next property's name, its tokens need no
        model to be guessed. Args as in `allowed`.
        """
        self._follow(tokens)
        if self._inner.is_error() or self._inner.is_stopped():
            return []
        forced: list[int] = self._inner.compute_ff_tokens()
        if forced:
            return forced[:FORCED_TOKENS]
        going_on = list(takewhile(lambda token: token not in self._ends, proposed))
        return going_on[: self._inner.validate_tokens(going_on)]

    def _follow(self, tokens: Sequence[int]) -> None:
        if self._seen < len(tokens):
            self._inner.consume_tokens(list(tokens[self._seen :]))
            self._seen = len(tokens)

    def _mask(self) -> bytes:
        mask: bytes = b"" if self._inner.is_error() else self._inner.compute_bitmask()
        if self._inner.is_error():
            raise GrammarError(_first_line(self._inner.get_error()))
        return mask


class Grammars:
    """Reads grammars for one tokenizer.

    Args:
        folder: of the checkpoint.
        vocab_size: of the model, which may be larger than the tokenizer's.
        eos_token_ids: what may be drawn once the output is complete.
    """

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._folder = folder
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._read: OrderedDict[str, LLMatcher] = OrderedDict()

    def matcher(self, grammar: str, start: int = 0) -> Matcher:
        """Return a matcher at the start of an output, behind so many tokens of a prompt.

        Raises:
            GrammarError: this is no grammar, or too large a one.
        """
        found = self._read.pop(grammar, None)
        if found is None:
            found = LLMatcher(self._loaded(), grammar, log_level=0, limits=limits())
            if found.is_error():
                raise GrammarError(_first_line(found.get_error()))
        self._read[grammar] = found
        if len(self._read) > REMEMBERED:
            self._read.popitem(last=False)
        return Matcher(found.deep_copy(), self._eos_token_ids, start)

    def _loaded(self) -> LLTokenizer:
        """Large vocabularies take a second to read: only those who ask for grammars pay it."""
        if self._tokenizer is None:
            text = (self._folder / "tokenizer.json").read_text(encoding="utf-8")
            self._tokenizer = LLTokenizer(
                text, n_vocab=self._vocab_size, eos_token=self._eos_token_ids or None
            )
        return self._tokenizer


def _first_line(error: str) -> str:
    return error.partition("\n")[0]
