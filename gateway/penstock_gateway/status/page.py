"""Renders the status page. Pure.

No script, no form, nothing loaded from anywhere: the policy that goes with it forbids all of that,
so that even a name which slips through unescaped could do nothing.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from penstock_gateway.status.snapshot import (
    DecisionRow,
    ModelRow,
    PoolRow,
    QueueRow,
    Status,
    WaitRow,
    WorkerRow,
)
from penstock_gateway.status.style import STYLE

REFRESH: Final = (2, 5, 30)
"""Seconds that the page offers to be loaded anew after."""

_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Cell = str
"""HTML."""


def render(status: Status, refresh: int | None = None) -> str:
    """Return the page.

    Args:
        status: what to show.
        refresh: seconds after which the browser loads it anew; one of `REFRESH`, or None.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    sections = "".join(
        (
            _table("Models", _MODELS, map(_model, status.models), "No model is served."),
            _table("Pools", _POOLS, map(_pool, status.pools), "There is no worker."),
            _table("Queues", _QUEUES, map(_queue, status.queues), "No request waits."),
            _table("Waiting for", _WAITS, map(_wait, status.waits), "No request waits."),
            _table("Workers", _WORKERS, map(_worker, status.workers), "There is no worker."),
            _table(
                "Last decisions",
                _DECISIONS,
                map(_decision, status.decisions),
                "No request has been given to a worker yet.",
            ),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"{again}<title>Penstock gateway</title><style>{STYLE}</style></head><body>"
        f"<header><h1>Penstock <span>gateway</span></h1>{_refresh_links(refresh)}</header>"
        f"<main>{_tiles(status)}{sections}</main>"
        f"{_missing(status.silent)}"
        f"<footer>penstock {escape(status.version)} · fleet {status.generation} · "
        "what this gateway sees; others count for themselves</footer></body></html>"
    )


def _missing(silent: int) -> str:
    if not silent:
        return ""
    return f'<p role="alert">{silent} of this gateway\'s processes did not answer.</p>'


def _refresh_links(refresh: int | None) -> str:
    links = ['<a href="?"{}>off</a>'.format("" if refresh else ' aria-current="true"')]
    for seconds in REFRESH:
        current = ' aria-current="true"' if seconds == refresh else ""
        links.append(f'<a href="?refresh={seconds}"{current}>{seconds} s</a>')
    return f'<nav aria-label="Refresh">refresh {"".join(links)}</nav>'


def _tiles(status: Status) -> str:
    ready = sum(row.state == "Ready" for row in status.workers)
    tiles = (
        ("models", str(len(status.models))),
        ("workers ready", f"{ready} / {len(status.workers)}"),
        ("in flight", _number(sum(row.in_flight for row in status.workers))),
        ("waiting", _number(sum(row.waiting for row in status.queues))),
        ("tenants", "open mode" if status.tenants is None else str(status.tenants)),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in tiles)
    return f"<dl>{items}</dl>"


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[Cell]], nothing: str) -> str:
    """Return a section with a table; a head that begins with `#` is of a column of numbers."""
    found = list(rows)
    name = title.lower().replace(" ", "-")
    begin = f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>'
    if not found:
        return f"{begin}<p>{nothing}</p></section>"
    kinds = [' class="n"' if text.startswith("#") else "" for text in head]
    heads = "".join(
        f'<th scope="col"{kind}>{text.removeprefix("#")}</th>'
        for text, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in found
    )
    return (
        f'{begin}<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


_MODELS = (
    "name", "deployment", "workers", "#in flight", "#waiting", "#prefix hits", "on trial",
)  # fmt: skip
_POOLS = ("deployment", "pool", "role", "workers", "#in flight")
_QUEUES = ("model", "class", "#priority", "#waiting")
_WAITS = ("model", "workers", "#waiting", "because", "#next in")
_WORKERS = (
    "worker", "deployment", "pool", "role", "revision", "state", "#in flight", "#prefill tokens",
    "#1,000 tokens", "#requests", "#failures",
)  # fmt: skip
_DECISIONS = (
    "#ago", "request", "model", "worker", "#attempt", "#cached", "#uncached", "#first token", "why",
)  # fmt: skip


def _model(row: ModelRow) -> Sequence[Cell]:
    aliases = f" <small>{escape(', '.join(row.aliases))}</small>" if row.aliases else ""
    hits = "–" if row.prefix_hits is None else f"{row.prefix_hits:.0%}"
    return (
        f"<b>{escape(row.name)}</b>{aliases}",
        escape(row.deployment),
        _share(row.ready, row.workers),
        _number(row.in_flight),
        _number(row.waiting),
        hits,
        escape(row.canary) or "–",
    )


def _pool(row: PoolRow) -> Sequence[Cell]:
    ready = _share(row.ready, row.workers)
    return escape(row.deployment), escape(row.name), row.role, ready, _number(row.in_flight)


def _queue(row: QueueRow) -> Sequence[Cell]:
    return escape(row.model), escape(row.share), str(row.priority), _number(row.waiting)


def _wait(row: WaitRow) -> Sequence[Cell]:
    next_in = "–" if row.seconds is None else f"{row.seconds:.2f} s"
    return escape(row.model), row.workers, _number(row.waiting), row.reason, next_in


def _worker(row: WorkerRow) -> Sequence[Cell]:
    failures = _number(row.failures)
    return (
        _code(row.id),
        escape(row.deployment),
        escape(row.pool),
        row.role,
        _code(row.revision) if row.revision else "–",
        f'<span class="pill {row.state.lower()}">{escape(row.state)}</span>',
        _number(row.in_flight),
        _number(row.outstanding),
        _prompt_cost(row),
        _number(row.requests),
        f'<b class="bad">{failures}</b>' if row.failures else failures,
    )


def _prompt_cost(row: WorkerRow) -> Cell:
    """Say what a thousand tokens of a prompt take, and how far that is off where it was learned."""
    if not row.prompt_token:
        return "–"
    error = f" ± {_number(round(row.prompt_error * 1e6))}" if row.prompt_error else ""
    return f"{_number(round(row.prompt_token * 1e6))}{error} ms"


def _decision(row: DecisionRow) -> Sequence[Cell]:
    return (
        _ago(row.seconds_ago),
        _code(row.request),
        escape(row.model),
        _code(row.worker),
        f'<b class="bad">{row.attempt}</b>' if row.attempt > 1 else str(row.attempt),
        _number(row.matched),
        _number(row.uncached),
        f"{row.ttft * 1000:,.0f} ms",
        f'<span class="why">{escape(row.reason)}</span>',
    )


def _share(part: int, whole: int) -> Cell:
    return (
        f'<meter min="0" max="{max(1, whole)}" low="{whole}" optimum="{whole}" value="{part}">'
        f"</meter> {part} / {whole}"
    )


def _code(text: str) -> Cell:
    return f"<code>{escape(text)}</code>"


def _number(value: int) -> Cell:
    return f"{value:,}".replace(",", "\u202f")


def _ago(seconds: float) -> Cell:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
