"""Read reStructuredText into blocks that can be printed as prose or searched for questions.

A parser of its own, since docutils would need Sphinx and its extensions to know these directives,
and since nothing here must be perfect: an odd table costs a few tokens, never a failed run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from inline import plain

_DIRECTIVE = re.compile(r"\.\. +([A-Za-z][A-Za-z0-9:_-]*)::(?: +(.*)|$)")
_OPTION = re.compile(r":[A-Za-z-]+:(?: |$)")
_BULLET = re.compile(r"(?:[*+-]|#\.|\(?\d+[.)]|[a-z]\))(?: +)(?=\S)")
_UNDERLINE = re.compile(r"([=\-`:'\"~^_*+#<>.])\1{2,}\s*$")
_SIMPLE_TABLE = re.compile(r"=+(?: +=+)+\s*$")

_DROPPED = {
    "index",
    "toctree",
    "highlight",
    "sectionauthor",
    "moduleauthor",
    "codeauthor",
    "raw",
    "image",
    "figure",
    "testsetup",
    "testcleanup",
    "tabularcolumns",
    "contents",
    "role",
    "literalinclude",
    "include",
    "program",
    "miscnews",
    "limited-api-list",
    "audit-event",
    "audit-event-table",
    "only",
    "productionlist",
    "availability",
}
_CODE = {"code-block", "sourcecode", "doctest", "testcode", "testoutput", "parsed-literal", "code"}
_ADMONITION = {
    "note": "Note",
    "warning": "Warning",
    "important": "Important",
    "tip": "Tip",
    "caution": "Caution",
    "seealso": "See also",
    "impl-detail": "CPython detail",
}
_VERSION = {
    "versionadded": "New in version {}",
    "versionchanged": "Changed in version {}",
    "deprecated": "Deprecated since version {}",
    "deprecated-removed": "Deprecated since version {}",
}
UNQUALIFIED = ("cmdoption", "option", "opcode", "envvar", "pdbcommand", "describe", "object")
"""Entries whose names belong to no module or class."""
ENTRIES = {
    "function",
    "class",
    "method",
    "exception",
    "data",
    "attribute",
    "classmethod",
    "staticmethod",
    "decorator",
    "coroutinemethod",
    "coroutinefunction",
    "abstractmethod",
    "awaitablefunction",
    "awaitablemethod",
    "c:function",
    "c:type",
    "c:macro",
    "c:member",
    "c:var",
    "c:struct",
    *UNQUALIFIED,
    "decoratormethod",
    "py:function",
    "py:method",
}


@dataclass
class Block:
    """One piece of a document: a title, a paragraph, an item, code, a term or an entry."""

    kind: str
    text: str = ""
    names: list[str] = field(default_factory=list)
    body: list[Block] = field(default_factory=list)


def find_labels(text: str) -> Iterator[tuple[str, str]]:
    """Yield every label with the title it stands on: what `:ref:` prints."""
    pattern = (
        r"^\.\. _([^:\n]+):\s*\n(?:\s*\n|\.\. [^\n]*\n)*(?:[=*#-]{3,}\n)?([^\n]+)\n[=*#\-~^\"']{3}"
    )
    for match in re.finditer(pattern, text, flags=re.MULTILINE):
        yield match.group(1).strip("`").lower(), match.group(2).strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dedent(lines: list[str]) -> list[str]:
    """Remove the common indentation and the blank lines at both ends."""
    while lines and not lines[0].strip():
        lines = lines[1:]
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    depth = min((_indent(line) for line in lines if line.strip()), default=0)
    return [line[depth:] for line in lines]


class Parser:
    """Reads one document; knows the module and class that names in it belong to."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.module = ""
        self.owner = ""

    def parse(self, text: str) -> list[Block]:
        """Return the document's blocks in order."""
        return self._blocks(text.expandtabs(8).splitlines())

    def _plain(self, text: str) -> str:
        return plain(text, self.labels)

    def _blocks(self, lines: list[str]) -> list[Block]:
        blocks: list[Block] = []
        at = 0
        while at < len(lines):
            line = lines[at]
            if not line.strip():
                at += 1
                continue
            start, at = at, self._end(lines, at)
            blocks += self._one(lines[start:at])
        return [block for block in blocks if block.text or block.body]

    def _end(self, lines: list[str], at: int) -> int:
        """Return where the construct that starts at line `at` ends."""
        first = lines[at]
        if _indent(first) or first.startswith("..") or _BULLET.match(first):
            end = at + 1
            depth = _indent(first) or 1
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) >= depth):
                end += 1
            return end
        if _SIMPLE_TABLE.match(first):
            rules, end = 1, at + 1
            while end < len(lines) and (lines[end].strip() or rules < 2):
                rules += bool(_SIMPLE_TABLE.match(lines[end]))
                end += 1
            return end
        if _UNDERLINE.match(first) and at + 2 < len(lines) and _UNDERLINE.match(lines[at + 2]):
            return at + 3
        end = at + 1
        if end < len(lines) and _indent(lines[end]) and not first.startswith((">>>", "+-", "|")):
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end])):
                end += 1
            return end
        while end < len(lines) and lines[end].strip():
            end += 1
        if lines[end - 1].rstrip().endswith("::"):
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end])):
                end += 1
        return end

    def _one(self, lines: list[str]) -> list[Block]:
        first = lines[0]
        if directive := _DIRECTIVE.match(first):
            return self._directive(directive[1].lower(), directive[2] or "", lines[1:])
        if first.startswith(".. ["):
            return self._blocks(_dedent([re.sub(r"^\.\. \[[^\]]*\] *", "   ", first), *lines[1:]]))
        if first.startswith("..") and first[2:3] in ("", " "):
            return []
        if first.startswith("   ") or _indent(first):
            return self._blocks(_dedent(lines))
        if first.startswith(("+-", "+=")) or _SIMPLE_TABLE.match(first):
            return [Block("item", row) for row in self._table(lines)]
        if _UNDERLINE.match(first) and len(lines) == 3:
            return [Block("title", self._plain(lines[1]))]
        if len(lines) >= 2 and _UNDERLINE.match(lines[1]) and not _indent(first):
            return [Block("title", self._plain(first)), *self._blocks(lines[2:])]
        if _UNDERLINE.match(first) and len(lines) == 1:
            return []
        if bullet := _BULLET.match(first):
            body = self._blocks(_dedent([" " * bullet.end() + first[bullet.end() :], *lines[1:]]))
            if body and body[0].kind == "para":
                body[0] = Block("item", "- " + body[0].text)
            return body
        if first.startswith(">>>"):
            return [Block("code", "\n".join(lines))]
        return self._paragraph(lines)

    def _paragraph(self, lines: list[str]) -> list[Block]:
        """Read a paragraph, the code that it announces, or a definition with its term."""
        end = next((n for n, line in enumerate(lines) if not line.strip()), len(lines))
        text = "\n".join(lines[:end]).rstrip()
        if len(lines) > 1 and _indent(lines[1]):
            if not text.split("\n")[0].endswith("::"):
                return [Block("term", self._plain(lines[0])), *self._blocks(_dedent(lines[1:]))]
            end, text = 1, lines[0]
        if not text.endswith("::"):
            words = self._plain(re.sub(r"(?m)^\| ", "", text))
            return [Block("para", words)] if words else []
        words = self._plain(text[:-1])
        blocks = [Block("para", words)] if words.strip(":") else []
        code = "\n".join(_dedent(lines[end:]))
        return [*blocks, Block("code", code)]

    def _directive(self, name: str, argument: str, lines: list[str]) -> list[Block]:
        lines = _dedent(lines) if name not in ENTRIES else lines
        if name in _DROPPED:
            return []
        if name in {"module", "currentmodule"}:
            self.module = argument.strip() if argument.strip() != "builtins" else ""
            return []
        if name in ENTRIES:
            return self._entry(name, argument, lines)
        while lines and _OPTION.match(lines[0]):
            lines = lines[1:]
        if name in _CODE:
            return [Block("code", "\n".join(_dedent(lines)))]
        if name in _VERSION:
            versions = argument.split(maxsplit=2 if name == "deprecated-removed" else 1)
            words = versions[2:] if name == "deprecated-removed" else versions[1:]
            head = _VERSION[name].format(versions[0] if versions else "")
            body = self._blocks([*words, *lines])
            if body and body[0].kind == "para":
                return [Block("note", f"{head}: {body[0].text}"), *body[1:]]
            return [Block("note", head + "."), *body]
        if name == "list-table":
            rows = re.split(r"(?m)^\* (?=-)", "\n".join(_dedent(lines)))[1:]
            cells = [
                [cell.text for cell in self._blocks(_dedent(("  " + row).splitlines()))]
                for row in rows
            ]
            return [
                Block("item", " | ".join(cell.removeprefix("- ") for cell in row)) for row in cells
            ]
        body = self._blocks([argument, *lines])
        if name in _ADMONITION and body and body[0].kind in {"para", "item", "term"}:
            return [Block("note", f"{_ADMONITION[name]}: {body[0].text}"), *body[1:]]
        return body

    def _entry(self, name: str, argument: str, lines: list[str]) -> list[Block]:
        """Read the description of a function, class and so on, with its full names."""
        signatures = [argument]
        while lines and lines[0].strip() and not _OPTION.match(lines[0].strip()):
            signatures.append(lines.pop(0).strip())
        signatures = re.sub(r"\\\n", " ", "\n".join(signatures)).split("\n")
        lines = _dedent(lines)
        while lines and _OPTION.match(lines[0]):
            lines = lines[1:]
        shown = [self._qualify(name, self._plain(item)) for item in signatures if item.strip()]
        names = [re.split(r"[(\s]", item, maxsplit=1)[0] for item in shown]
        outer = self.owner
        if name in {"class", "exception"} and names:
            self.owner = names[0]
        body = self._blocks(lines)
        self.owner = outer
        prefix = {"class": "class ", "exception": "exception ", "decorator": "@"}.get(name, "")
        text = "\n".join(prefix + item for item in shown)
        return [Block("entry:" + name, text, names, body)]

    def _qualify(self, name: str, signature: str) -> str:
        """Put the module or class in front of a signature, as the rendered page does."""
        if name.startswith("c:") or name in UNQUALIFIED:
            return signature
        own = signature.split("(")[0]
        if self.owner:
            short = self.owner.rsplit(".", 1)[-1]
            if own.startswith(self.owner + "."):
                return signature
            return (
                self.owner.removesuffix(short) if own.startswith(short + ".") else self.owner + "."
            ) + signature
        if self.module and not own.startswith(self.module + "."):
            return f"{self.module}.{signature}"
        return signature

    def _table(self, lines: list[str]) -> Iterator[str]:
        """Yield a table's rows with their cells joined by bars."""
        if not lines[0].startswith("+"):
            for line in lines:
                if line.strip() and not re.match(r"[=\- ]+$", line):
                    yield self._plain(re.sub(r" {2,}", " | ", line.strip()))
            return
        row: list[str] = []
        for line in lines:
            if line.startswith("+"):
                if any(row):
                    yield self._plain(" | ".join(row))
                row = []
                continue
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) == len(row):
                row = [f"{old} {new}".strip() for old, new in zip(row, cells, strict=True)]
            else:
                row += cells
        if any(row):
            yield self._plain(" | ".join(row))


def to_text(blocks: list[Block]) -> str:
    """Print blocks as the plain text that the language model reads."""
    parts: list[str] = []
    for before, block in zip([None, *blocks], blocks, strict=False):
        text = block.text
        if block.kind == "title":
            text = "# " + text
        elif block.kind == "code":
            text = "\n".join("    " + line if line else "" for line in text.split("\n"))
        glued = before is not None and before.kind == block.kind == "item"
        parts.append(("\n" if glued else "\n\n") + text)
        if block.body:
            parts.append("\n" + to_text(block.body))
    return "".join(parts).strip("\n") + "\n"
