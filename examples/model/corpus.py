"""Make what is trained on and what is kept apart out of the documentation.

The kept part stays text that this project's quality benchmarks measure perplexity on, so nothing of
it may be taught: neither its files, nor the questions made from them, nor a paragraph elsewhere
that repeats one of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from inline import plain
from questions import Pair, from_document, written
from rst import Parser, find_labels, to_text
from source import is_held_out, read_sources

# Shorter paragraphs ("New in version 3.4.") repeat everywhere and give nothing away.
_REPEATED = 60


@dataclass
class Corpus:
    """Plain documents to train on, question-answer pairs, and the held-out documents."""

    train: dict[str, str] = field(default_factory=dict)
    held_out: dict[str, str] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)

    def held_out_text(self) -> str:
        """Return the kept part as one text."""
        return "\n\n".join(self.held_out.values())


def load(folder: Path, questions: Path) -> Corpus:
    """Read the sources and the hand-written questions."""
    sources = read_sources(folder)
    labels = {
        label: plain(title, {}) for text in sources.values() for label, title in find_labels(text)
    }
    parsed = {name: Parser(labels).parse(text) for name, text in sources.items()}
    corpus = Corpus(pairs=written(questions))
    kept: set[str] = set()
    for name, blocks in parsed.items():
        if is_held_out(name):
            corpus.held_out[name] = to_text(blocks)
            kept.update(_paragraphs(corpus.held_out[name]))
    for name, blocks in parsed.items():
        if name not in corpus.held_out:
            paragraphs = to_text(blocks).split("\n\n")
            corpus.train[name] = "\n\n".join(text for text in paragraphs if text not in kept)
            pairs = from_document(name, blocks)
            corpus.pairs += [pair for pair in pairs if not kept & set(_paragraphs(pair.answer))]
    return corpus


def _paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if len(part) >= _REPEATED]
