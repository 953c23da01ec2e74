"""The steps of a batch that are files: its input is checked, its output written. They block."""

import sqlite3
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from penstock_gateway.batches.batch import Batch, Problem, Status
from penstock_gateway.batches.files import OUTPUT, File, Files
from penstock_gateway.batches.limits import LONGEST_KEPT, MOST_LINES
from penstock_gateway.batches.lines import (
    CANCELLED,
    EXPIRED,
    MAX_LINE,
    LineError,
    line_id,
    parse,
    unanswered_line,
)
from penstock_gateway.batches.store import BatchStore, Entry

MOST_PROBLEMS: Final = 100
"""That are told of a file."""


def validate(batch: Batch, files: Files, store: BatchStore) -> None:
    """Bring a batch to `in_progress` with its requests, or to `failed` with what is wrong."""
    entries, problems = check(files.path(batch.input_file), batch.endpoint)
    if problems:
        store.move(batch.id, Status.FAILED, time.time(), problems=tuple(problems))
    else:
        store.validated(batch.id, entries, time.time())


def check(source: Path, endpoint: str) -> tuple[list[Entry], list[Problem]]:
    """Return where the requests of an input file are, and what is wrong with it."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    try:
        with source.open("rb") as content:
            for number, start, line in _lines(content):
                if len(entries) == MOST_LINES:
                    message = f"a batch may have {MOST_LINES} requests"
                    problems.append(Problem("too_many_requests", message, number))
                    break
                try:
                    entries.append(_entry(number, start, line, endpoint, seen))
                except LineError as error:
                    problems.append(error.at(number))
                if len(problems) == MOST_PROBLEMS:
                    break
    except FileNotFoundError:
        problems.append(Problem("invalid_input_file", "the input file is gone"))
    if not entries and not problems:
        problems.append(Problem("empty_file", "the input file has no request"))
    return entries, problems


def _lines(content: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Return the lines that are not empty, with their numbers and where they begin.

    Of one that is too long, only the beginning is returned.
    """
    number = start = 0
    while line := content.readline(MAX_LINE + 2):
        number += 1
        length = len(line)
        while not line.endswith(b"\n") and (rest := content.readline(1 << 20)):
            length += len(rest)
            if rest.endswith(b"\n"):
                break
        if line.strip():
            yield number, start, line.rstrip(b"\r\n")
        start += length


def _entry(number: int, start: int, line: bytes, endpoint: str, seen: set[str]) -> Entry:
    custom_id = parse(line, endpoint).custom_id
    if custom_id in seen:
        message = "another line has the same custom_id"
        raise LineError("duplicate_custom_id", message, "custom_id")
    seen.add(custom_id)
    return Entry(number, custom_id, start, len(line))


def finish(batch: Batch, files: Files, store: BatchStore) -> Batch | None:
    """Write a batch's output and errors, and end it; the same again after a crash.

    Returns:
        the batch as it has ended; None when it has gone elsewhere meanwhile.
    """
    ending = batch.ending
    unanswered = CANCELLED if ending is Status.CANCELLED else EXPIRED
    now = time.time()
    output = _write(batch, "output", _answered(store, batch), files, now)
    errors = _write(batch, "errors", _failed(store, batch, unanswered), files, now)

    def also(connection: sqlite3.Connection) -> None:
        for found in (output, errors):
            if found is not None:
                files.add(found, connection)
        store.forget_requests(batch.id, connection)

    return store.move(
        batch.id,
        ending,
        now,
        also,
        output_file=output.id if output else None,
        error_file=errors.id if errors else None,
    )


def _answered(store: BatchStore, batch: Batch) -> Iterator[bytes]:
    return (line.answer for line in store.lines(batch.id) if line.ok and line.answer)


def _failed(store: BatchStore, batch: Batch, unanswered: tuple[str, str]) -> Iterator[bytes]:
    for line in store.lines(batch.id):
        if line.ok is None:
            yield unanswered_line(line_id(batch.id, line.number), line.custom_id, *unanswered)
        elif not line.ok and line.answer:
            yield line.answer


def _write(
    batch: Batch, what: str, lines: Iterator[bytes], files: Files, now: float
) -> File | None:
    """Write a file, if there is anything to write."""
    # The same id whenever it is written: a crash in between leaves one file and not two.
    file_id = f"file-{sha256(f'{batch.id} {what}'.encode()).hexdigest()[:24]}"
    first = next(lines, None)
    if first is None:
        return None
    with files.written(file_id) as content:
        size = content.write(first)
        for line in lines:
            size += content.write(line)
    kept = batch.output_expires_after or LONGEST_KEPT
    name = f"{batch.id}_{what}.jsonl"
    return File(file_id, batch.tenant, OUTPUT, name, size, int(now), int(now) + kept)
