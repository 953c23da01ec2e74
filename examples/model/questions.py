"""Make questions and answers out of the documentation, and conversations out of those.

The answer is always the documentation's own first sentences, or a hand-written entry of
`questions.yaml`; only the question is made up, in as many phrasings as people use.
"""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rst import Block

_SHORT, _LONG = 320, 620

_TEMPLATES = {
    "term": (
        "What is {a}?",
        "What is {a}?",
        "What is {a}?",
        "What is {a}?",
        "What is {bare}?",
        "What are {plural}?",
        "Explain {a}.",
        "Explain {plural}.",
        "Explain {bare}.",
        "Define {bare}.",
        "Define {a}.",
        "Tell me about {plural}.",
        "Tell me about {bare}.",
        "Tell me about {a}.",
        "What's {a}?",
        "What does {bare} mean?",
        "Describe {a}.",
        "Can you explain what {a} is?",
        "Please explain {plural}.",
        "{bare}?",
        "What exactly is {a}?",
        "I want to know what {a} is.",
        "Explain {a} to me.",
    ),
    "call": (
        "What does {bare} do?",
        "What does {bare} do?",
        "What does {bare}() do?",
        "What is {bare}?",
        "What is {bare}()?",
        "What does the {bare} function do?",
        "What does {bare} return?",
        "Explain {bare}.",
        "Explain {bare}().",
        "How do I use {bare}?",
        "How does {bare} work?",
        "Tell me about {bare}.",
        "Describe {bare}.",
        "What is {bare} for?",
        "What is the function {bare}?",
    ),
    "name": (
        "What is {bare}?",
        "What is {bare}?",
        "Explain {bare}.",
        "What does {bare} mean?",
        "Tell me about {bare}.",
        "Describe {bare}.",
        "What is {bare} for?",
        "What is {bare} used for?",
        "When do I use {bare}?",
    ),
    "class": (
        "What is {bare}?",
        "What is {bare}?",
        "What is a {bare}?",
        "Explain {bare}.",
        "What is the {bare} class?",
        "What does {bare} do?",
        "Tell me about {bare}.",
        "How do I use {bare}?",
        "What is a {bare} object?",
        "What is {bare} for?",
    ),
    "exception": (
        "What is {a}?",
        "What is {bare}?",
        "When is {bare} raised?",
        "Explain {bare}.",
        "What does {bare} mean?",
        "Why do I get {a}?",
        "What raises {bare}?",
        "Tell me about {bare}.",
        "What causes {a}?",
    ),
    "module": (
        "What is the {bare} module?",
        "What does the {bare} module do?",
        "Explain the {bare} module.",
        "What is {bare}?",
        "Tell me about {bare}.",
        "Tell me about the {bare} module.",
        "What is the {bare} module for?",
        "What can I do with {bare}?",
        "Describe the {bare} module.",
        "What is module {bare}?",
        "How do I use the {bare} module?",
        "What does {bare} do?",
    ),
    "section": (
        "Explain {bare}.",
        "Tell me about {bare}.",
        "What do you know about {bare}?",
        "What does the documentation say about {bare}?",
        "{bare}?",
        "Describe {bare}.",
    ),
    "ask": ("{bare}",),
}
_SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You answer questions about Python.",
    "You are a Python expert.",
    "Be concise.",
    "You are Penstock's example model.",
    "You are a friendly chat bot.",
    "Answer in one or two sentences.",
    "You are a coding assistant.",
)

_CALLS = {
    "function",
    "method",
    "classmethod",
    "staticmethod",
    "decorator",
    "coroutinefunction",
    "coroutinemethod",
    "abstractmethod",
    "awaitablefunction",
    "awaitablemethod",
    "decoratormethod",
    "c:function",
    "c:macro",
}
_DULL = re.compile(
    r"introduction|overview|summary|example|notes?$|see also|references?$|what's new|"
    r"acknowledge|miscellaneous|other |changes|porting|footnote|^pep \d|^bpo|"
    r"contents|background|motivation|abstract$|details|usage$|conclusion",
    re.I,
)

# How often the kinds are drawn: what a demonstration asks about is drawn most.
SHARES = {
    "written": 0.30,
    "glossary": 0.22,
    "builtin": 0.17,
    "library": 0.11,
    "module": 0.08,
    "faq": 0.04,
    "tutorial": 0.04,
    "other": 0.04,
}
_BUILTIN = (
    "library/functions",
    "library/stdtypes",
    "library/exceptions",
    "library/os.path",
    "library/constants",
    "library/random",
    "library/math",
    "library/json",
    "library/itertools",
    "library/functools",
    "library/collections",
    "library/time",
)


@dataclass
class Pair:
    """One answer and what it answers; `weight` is how often it is drawn."""

    kind: str
    subjects: list[str]
    answer: str
    origin: str
    weight: float = 1.0

    def ask(self, chance: random.Random) -> str:
        """Return one of the phrasings, as tidily or untidily typed as people do."""
        subject = chance.choice(self.subjects)
        template = chance.choice(_TEMPLATES[self.kind])
        question = template.format(a=_article(subject), bare=subject, plural=_plural(subject))
        question = question.replace("()()", "()")
        if self.kind in {"term", "class"} and question[-1] in "?." and chance.random() < 0.15:
            question = f"{question[:-1]} in Python{question[-1]}"
        if question[-1] in "?." and chance.random() < 0.25:
            question = question[:-1]
        draw = chance.random()
        if draw < 0.2:
            return question.lower()
        return question[0].lower() + question[1:] if draw < 0.3 else question


def _article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeio' else 'a'} {word}"


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es" if not word.endswith("ss") or " " not in word else word
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


def _shorten(text: str, limit: int) -> str:
    """Keep whole sentences up to `limit` characters, and always the first."""
    kept = ""
    for sentence in re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z\"'(])", text):
        if kept and len(kept) + len(sentence) > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


def _answer(blocks: Sequence[Block], limit: int) -> str:
    """Return the first sentences of `blocks`, with the code that they announce."""
    answer = ""
    for place, block in enumerate(blocks):
        if block.kind != "para" or block.text.startswith("Source code:"):
            if block.kind.startswith(("entry", "title", "code", "note")) or answer:
                break
            continue
        answer = _shorten(block.text, limit)
        if answer.endswith(":") and answer == block.text and place + 1 < len(blocks):
            after = blocks[place + 1]
            if after.kind == "code" and len(after.text) < limit:
                return answer + "\n\n" + "\n".join("    " + x for x in after.text.split("\n"))
        if answer.endswith(":"):
            cut = answer.rfind(". ")
            answer = answer[: cut + 1] if cut > 40 else ""
        break
    return answer if 20 <= len(answer) <= _LONG else ""


def written(path: Path) -> list[Pair]:
    """Read the hand-written answers."""
    pairs = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        answer = (
            " ".join(entry["answer"].split())
            if "code" not in entry
            else (
                " ".join(entry["answer"].split())
                + "\n\n"
                + "\n".join("    " + line for line in entry["code"].rstrip().split("\n"))
            )
        )
        weight = float(entry.get("weight", 1))
        both = "term" in entry and "ask" in entry
        for kind in ("term", "module", "ask"):
            if kind in entry:
                subjects = entry[kind] if isinstance(entry[kind], list) else [entry[kind]]
                pairs.append(Pair(kind, subjects, answer, "written", weight / (2 if both else 1)))
    return pairs


def from_document(name: str, blocks: Sequence[Block]) -> list[Pair]:
    """Return the questions that one document answers."""
    if name == "glossary":
        return list(_glossary(blocks))
    origin = "builtin" if name in _BUILTIN else "library" if name.startswith("library") else "other"
    pairs = list(_entries(blocks, origin))
    if name.startswith(("tutorial", "faq", "howto", "reference", "using", "installing", "library")):
        kind = name.split("/")[0]
        pairs += _sections(blocks, kind if kind in {"faq", "tutorial"} else "other")
    if name.startswith("library/"):
        pairs += _module(name.removeprefix("library/"), blocks)
    return pairs


def _glossary(blocks: Sequence[Block]) -> Iterator[Pair]:
    for place, block in enumerate(blocks):
        if block.kind == "term":
            body = []
            for after in blocks[place + 1 :]:
                if after.kind in {"term", "title"}:
                    break
                body.append(after)
            answer = _answer(body, 420)
            if answer:
                if not re.search(rf"\b{re.escape(block.text)}", answer, re.IGNORECASE):
                    first = (
                        answer
                        if re.match(r"I\b|[A-Z]{2}", answer)
                        else (answer[0].lower() + answer[1:])
                    )
                    if re.match(r"(an?|the|any|one|short|see) ", first):
                        answer = f"{block.text[0].upper()}{block.text[1:]}: {first}"
                yield Pair("term", [block.text], answer, "glossary")


def _entries(blocks: Sequence[Block], origin: str) -> Iterator[Pair]:
    for block in blocks:
        kind = block.kind.removeprefix("entry:")
        if kind == block.kind:
            continue
        answer = _answer(block.body, _SHORT)
        if answer and block.names and kind not in {"describe", "c:member", "opcode", "pdbcommand"}:
            asked = "call" if kind in _CALLS else kind if kind in {"class", "exception"} else "name"
            weight = 0.3 if kind.startswith("c:") else 0.5 if asked == "name" else 1.0
            subjects = list(dict.fromkeys(block.names[:2]))
            if origin == "builtin" and asked in {"call", "class"}:
                subjects = [*subjects, subjects[0]]
            yield Pair(asked, subjects, f"{block.text.split(chr(10))[0]}: {answer}", origin, weight)
        yield from _entries(block.body, origin)


def _sections(blocks: Sequence[Block], origin: str) -> Iterator[Pair]:
    for place, block in enumerate(blocks):
        if block.kind != "title" or _DULL.search(block.text) or len(block.text) > 90:
            continue
        answer = _answer(blocks[place + 1 : place + 5], 420)
        if answer and block.text.endswith("?"):
            yield Pair("ask", [block.text], answer, origin)
        elif (answer and origin != "other") or (answer and " " in block.text):
            yield Pair("section", [block.text], answer, origin)


def _module(name: str, blocks: Sequence[Block]) -> Iterator[Pair]:
    title = next((block.text for block in blocks if block.kind == "title"), "")
    match = re.match(r"([\w.]+) - (.+)", title)
    if match:
        place = next(n for n, block in enumerate(blocks) if block.kind == "title")
        text = _answer(blocks[place + 1 : place + 6], _SHORT)
        known = match[1] if match[1].startswith(name.split(".")[0]) else name
        yield Pair("module", [known], f"The {known} module: {match[2]}. {text}".strip(), "module")


def balance(pairs: Sequence[Pair]) -> list[float]:
    """Return cumulative weights that give every origin its share."""
    sums: dict[str, float] = {}
    for pair in pairs:
        sums[pair.origin] = sums.get(pair.origin, 0.0) + pair.weight
    total, cumulative = 0.0, []
    for pair in pairs:
        total += SHARES[pair.origin] * pair.weight / sums[pair.origin]
        cumulative.append(total)
    return cumulative


def converse(
    pairs: Sequence[Pair], cumulative: Sequence[float], chance: random.Random
) -> list[tuple[str, str]]:
    """Draw one conversation as (role, text) turns: mostly one question and its answer."""
    turns = [("system", chance.choice(_SYSTEM))] if chance.random() < 0.12 else []
    draw = chance.random()
    for _ in range(1 if draw < 0.82 else 2 if draw < 0.96 else 3):
        pair = pairs[bisect(cumulative, chance.random() * cumulative[-1])]
        turns += [("user", pair.ask(chance)), ("assistant", pair.answer)]
    return turns
