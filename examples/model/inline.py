"""Turn reStructuredText's mark-up inside a line into plain words.

A small model has no parameters to spare on `:class:` and double backquotes: what is taught is the
sentence as a reader of the rendered page sees it.
"""

from __future__ import annotations

import re

_ROLE = re.compile(r":(?P<role>[A-Za-z][A-Za-z:+-]*):`(?P<body>[^`]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?")
_REFERENCE = re.compile(r"`([^`]+)`__?")
_INTERPRETED = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"(?<![\w*\\])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w*])", re.DOTALL)
_EMPHASIS = re.compile(r"(?<![\w*\\])\*(?=[^\s*])([^*]*?[^\s*\\]|)\*(?![\w*])", re.DOTALL)
_FOOTNOTE = re.compile(r"\s*\[(?:#\w*|\d+|\*)\]_(?!\w)")
_NAME_REFERENCE = re.compile(r"(?<=\w)_(?=[\s.,;:)]|$)")
_TITLE_AND_TARGET = re.compile(r"(.*?)\s*<([^<>]*)>$", re.DOTALL)

_CALLED = {"func", "meth", "c:func", "py:func", "py:meth"}
_DROPPED = {"index", "issue", "gh"}
_KEEP_TILDE = {"ref", "term", "doc", "option", "file", "samp", "mailheader", "keyword", "dfn"}
_LABELLED = {"ref", "doc"}

_SUBSTITUTIONS = {
    "|version|": "3.11",
    "|release|": "3.11",
    "|python_version_literal|": "3.11",
    "|python_x_dot_y_literal|": "python3.11",
    "|usable_in_cond_expressions|": "",
    "|today|": "",
}


def _role(role: str, body: str, labels: dict[str, str]) -> str:
    """Return what a reader sees of one role."""
    if role in _DROPPED:
        return "\x01"
    explicit = _TITLE_AND_TARGET.match(body)
    if explicit and explicit.group(1) and role not in {"samp", "kbd", "code", "c:expr"}:
        return explicit.group(1)
    if role in _LABELLED:
        return labels.get(body.strip().lower(), body.replace("-", " ").replace("_", " "))
    if role.lower() in {"pep", "rfc"}:
        return f"{role.upper()} {body.split('#')[0]}"
    if role == "abbr":
        return body
    if role == "samp":
        return re.sub(r"(?<!\\)[{}]", "", body)
    text = body.lstrip("!") if role not in {"kbd", "file", "c:expr"} else body
    if role not in _KEEP_TILDE and text.startswith("~"):
        text = text[1:].rsplit(".", 1)[-1]
    if role in _CALLED and not text.endswith(")"):
        text += "()"
    return text


def plain(text: str, labels: dict[str, str]) -> str:
    """Return `text` as plain words on one line."""
    kept: list[str] = []

    def keep(value: str) -> str:
        """Set finished text aside, so that no later rule reads mark-up in it."""
        kept.append(value)
        return f"\x00{len(kept) - 1}\x00"

    for name, value in _SUBSTITUTIONS.items():
        text = text.replace(name, value)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = _LITERAL.sub(lambda match: keep(match.group(1)), text)
    text = _ROLE.sub(lambda match: keep(_role(match["role"], match["body"], labels)), text)
    text = _FOOTNOTE.sub("", text)
    text = _LINK.sub(lambda match: keep(match.group(1)), text)
    text = _REFERENCE.sub(lambda match: keep(match.group(1)), text)
    text = _INTERPRETED.sub(lambda match: keep(match.group(1)), text)
    text = _STRONG.sub(r"\1", text)
    text = _EMPHASIS.sub(r"\1", text)
    text = _NAME_REFERENCE.sub("", text)
    text = re.sub(r"\\\s", "", text)
    text = re.sub(r"\\(.)", r"\1", text)
    while "\x00" in text:
        text = re.sub(r"\x00(\d+)\x00", lambda match: kept[int(match.group(1))], text)
    text = text.replace("\\\\", "\\")
    text = re.sub(r"\((?:See )?[\s,;.]*\x01[\s,;.\x01]*\)", "", text).replace("\x01", "")
    text = re.sub(r" --- | -- ", " - ", text)
    text = re.sub(
        r"\(\s*(?:[Cc]ontributed|[Pp]atch(?:es)?|[Ii]mplemented)\b[^()]*"
        r"(?:\([^()]*\)[^()]*)*\)",
        "",
        text,
    )
    return re.sub(r"\s+([.,;])(?=\s|$)", r"\1", re.sub(r"[ \t]+", " ", text)).strip()
