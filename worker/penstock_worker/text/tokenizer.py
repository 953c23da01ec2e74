"""The model's tokenizer, and turning tokens back into text one at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import tokenizers
from tokenizers.decoders import DecodeStream

from penstock_worker.text.token_bytes import token_bytes

PORTION: Final = 1 << 18
"""Letters that are encoded at a time: the library takes some 400 bytes for each token."""

T = TypeVar("T")


class TokenizerError(ValueError):
    """The tokenizer cannot be loaded, or was given token ids that do not exist."""


class Tokenizer:
    """A Hugging Face `tokenizer.json`.

    Raises:
        TokenizerError: the file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{path} does not exist")
        try:
            self._inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise TokenizerError(f"{path} is damaged: {error}") from error
        # Some are saved with both; how long a text may be is not the tokenizer's to decide.
        self._inner.no_truncation()
        self._inner.no_padding()
        self._byte_level = "ByteLevel" in str(json.loads(self._inner.to_str())["decoder"])
        self.vocab_size = self._inner.get_vocab_size(with_added_tokens=True)
        self.longest = max(map(len, self._inner.get_vocab(with_added_tokens=True)))
        """Letters of the longest token."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_texts(
        self, texts: Iterable[str], *, add_special_tokens: bool, most: int | None = None
    ) -> Iterator[list[int]]:
        """Yield the token ids of each text; of a longer one, the first `most`, marks included."""
        for part in _portions(texts, len):
            for one in self._inner.encode_batch(part, add_special_tokens=add_special_tokens):
                yield _cut(one, 0, most)

    def encode_pairs(
        self, pairs: Iterable[tuple[str, str]], *, most: int | None = None
    ) -> Iterator[tuple[list[int], int]]:
        """Yield the token ids of each pair, and where its second text begins if that is marked.

        A pair longer than `most` loses the end of its second text.
        """
        known: dict[str, tokenizers.Encoding] = {}
        for part in _portions(pairs, lambda pair: sum(map(len, pair))):
            # Often the first text is the same for all, and longer than the others.
            firsts = dict.fromkeys(one for one, _ in part)
            known = {one: found for one, found in known.items() if one in firsts}
            new = [one for one in firsts if one not in known]
            known |= zip(new, self._plain(new), strict=True)
            for (one, _), second in zip(part, self._plain([two for _, two in part]), strict=True):
                whole = self._inner.post_process(known[one], second, True)
                types = whole.type_ids
                yield _cut(whole, 1, most), types.index(1) if 1 in types else 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def bytes_of(self, token: int) -> bytes:
        """Return the exact bytes of a token, which may be a part of a character."""
        spelling: str | None = self._inner.id_to_token(token)
        return token_bytes(spelling or "", byte_level=self._byte_level)

    def is_token(self, text: str) -> bool:
        """Return whether a text is a token of its own."""
        return self._inner.token_to_id(text) is not None

    def hides(self, text: str) -> bool:
        """Return whether a text is a special token, which decoding leaves out by default."""
        token = self._inner.token_to_id(text)
        return token is not None and not self.decode([token])

    def _plain(self, texts: list[str]) -> list[tokenizers.Encoding]:
        found: list[tokenizers.Encoding] = self._inner.encode_batch(texts, add_special_tokens=False)
        return found

    def stream(self, prompt: Sequence[int], *, skip_special_tokens: bool) -> "TextStream":
        """Return an incremental decoder of what follows a prompt."""
        return TextStream(self._inner, prompt, skip_special_tokens)


class TextStream:
    """Decodes token by token; what it returns is always whole characters.

    Bytes of a character that is not complete yet are kept back. If the output ends inside one, it
    never appears: half a character is not text.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, prompt: Sequence[int], skip_special_tokens: bool
    ) -> None:
        self._inner = inner
        # The last prompt tokens decide, in some tokenizers, whether the output starts with a space;
        # but half a character among them would come out again with what follows.
        seed = list(prompt[-4:])
        if self._ends_in_half(seed):
            seed = []
        self._stream = DecodeStream(ids=seed, skip_special_tokens=skip_special_tokens)

    def feed(self, token: int) -> str:
        """Return the text that a token completes; often a word, sometimes nothing."""
        return self._stream.step(self._inner, token) or ""

    def _ends_in_half(self, ids: list[int]) -> bool:
        text: str = self._inner.decode(ids, skip_special_tokens=False)
        return text.endswith("\ufffd")


def _portions(items: Iterable[T], letters: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield items in their order, together as many as have `PORTION` letters, but at least one."""
    part: list[T] = []
    room = PORTION
    for item in items:
        size = letters(item)
        if part and size > room:
            yield part
            part, room = [], PORTION
        part.append(item)
        room -= size
    if part:
        yield part


def _cut(found: tokenizers.Encoding, sequence: int, most: int | None) -> list[int]:
    """Return token ids, no more than `most` as far as leaving out the end of a sequence helps.

    The library's own truncation keeps all that it cuts off, in pieces of that length.
    """
    ids: list[int] = found.ids
    if most is None or len(ids) <= most:
        return ids
    own = [place for place, whose in enumerate(found.sequence_ids) if whose == sequence]
    gone = set(own[len(own) - min(len(own), len(ids) - most) :])
    return [token for place, token in enumerate(ids) if place not in gone]
