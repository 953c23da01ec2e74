"""The status page as text: what it shows, to whom, and that nothing in it can do harm."""

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import plain_http
import pytest
from stub_worker import StubWorker

from penstock_contract.api_keys import hash_of
from penstock_contract.errors import ApiError
from penstock_gateway.status import page
from penstock_gateway.status.access import allow
from penstock_gateway.status.snapshot import (
    DecisionRow,
    ModelRow,
    PoolRow,
    QueueRow,
    Status,
    WaitRow,
    WorkerRow,
)
from penstock_gateway.tenants.registry import TenantRegistry
from penstock_gateway.tenants.tenancy import Tenancy
from penstock_gateway.tenants.tenant import Tenant

EVIL = """<script>alert(1)</script>"'&<img src=x onerror=alert(1)>"""
VOID = {"meta", "br", "img", "link"}

FULL = Status(
    version="1",
    generation=7,
    tenants=2,
    models=(ModelRow("m", ("alias",), "d", 1, 2, 3, 4000, 0.876, "r2: 10 %"),),
    pools=(PoolRow("d", "p", "Unified", 1, 2, 3),),
    queues=(QueueRow("m", "batch/team", -10, 4000),),
    waits=(
        WaitRow("m", "prefill", 3000, "workers have enough prompts", 0.25),
        WaitRow("m", "proven", 1000, "no worker is ready", None),
    ),
    workers=(
        WorkerRow("w1", "d", "p", "Unified", "r1", "Ready", 3, 1234, 9, 0, 1.2e-4, 3e-6),
        WorkerRow("w2", "d", "p", "Unified", "", "Draining", 0, 0, 9, 2),
    ),
    decisions=(DecisionRow(3.2, "req-1", "m", "w1", 2, 90, 10, 0.0123, "ttft=0.012s"),),
)


class Page(HTMLParser):
    """Checks that every element is closed, and collects what is there."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_everything_is_in_tables() -> None:
    found = Page(page.render(FULL))
    assert found.elements["table"] == 6
    for text in (
        "m alias",
        "88%",
        "4\u202f000",
        "batch/team",
        "-10",
        "Draining",
        "12 ms",
        "3 s",
        "120 ± 3 ms",
    ):
        assert text in found.cells, text


def test_without_anything_it_says_so_instead() -> None:
    text = page.render(Status("1", 0, None))
    found = Page(text)
    assert not found.elements["table"]
    assert "No model is served." in text
    assert "open mode" in text


def test_nothing_that_is_shown_becomes_markup() -> None:
    evil = Status(
        version=EVIL,
        generation=1,
        tenants=None,
        models=(ModelRow(EVIL, (EVIL,), EVIL, 0, 0, 0, 0, None, EVIL),),
        pools=(PoolRow(EVIL, EVIL, "Unified", 0, 0, 0),),
        queues=(QueueRow(EVIL, EVIL, 0, 0),),
        workers=(WorkerRow(EVIL, EVIL, EVIL, "Unified", EVIL, "Ready", 0, 0, 0, 0),),
        decisions=(DecisionRow(0, EVIL, EVIL, EVIL, 1, 0, 0, 0, EVIL),),
    )
    harmless, found = Page(page.render(FULL)), Page(page.render(evil))
    assert "script" not in found.elements
    assert "img" not in found.elements
    assert found.attributes <= harmless.attributes
    assert EVIL in found.cells


def test_the_policy_allows_this_style_sheet_and_nothing_else() -> None:
    text = page.render(FULL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert " style=" not in text
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.parametrize("refresh", [None, *page.REFRESH])
def test_it_is_loaded_anew_only_when_that_is_chosen(refresh: int | None) -> None:
    text = page.render(FULL, refresh)
    assert ('http-equiv="refresh"' in text) == (refresh is not None)
    assert text.count('aria-current="true"') == 1


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer sk-debug", 0),
        (basic("sk-debug"), 0),
        (basic("sk-team"), 403),
        (basic("sk-no"), 401),
        ("Basic !", 401),
        ("Bearer sk-team", 403),
    ],
)
def test_it_is_for_tenants_that_may_debug(authorization: str | None, status: int) -> None:
    tenancy = Tenancy(lambda: 0.0)
    tenants = [
        (Tenant(name, debug=name == "debug"), [hash_of(f"sk-{name}")]) for name in ("team", "debug")
    ]
    tenancy.change(TenantRegistry(tenants))
    if not status:
        allow(tenancy, authorization)
        return
    with pytest.raises(ApiError) as refused:
        allow(tenancy, authorization)
    assert refused.value.code.status == status
    asks = refused.value.headers().get("www-authenticate", "")
    assert asks.startswith("Basic ") == (status == 401)  # so that a browser opens its dialogue


def test_in_open_mode_it_is_for_everyone() -> None:
    tenancy = Tenancy(lambda: 0.0)
    tenancy.change(TenantRegistry())
    allow(tenancy, None)


@pytest.mark.anyio
async def test_a_real_gateway_shows_its_workers_and_why_it_chose_one(gateway: Any) -> None:
    async with StubWorker() as worker, StubWorker() as draining:
        await gateway.serve(worker, draining, draining=(draining,))
        async with plain_http.client(gateway.url) as client:
            for _ in range(3):
                await client.post("/v1/completions", json={"model": "m", "prompt": "x" * 999})
            answer = await client.get("/status?refresh=5")
            answer.raise_for_status()
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        for name, value in page.HEADERS.items():
            assert answer.headers[name] == value
        found = Page(answer.text)
        assert found.cells.count(f"w{worker.port}") == 1 + 3
        assert {"m org/alias, sql", "Ready", "Draining"} <= set(found.cells)
        assert any(cell.startswith("ttft=") for cell in found.cells)
