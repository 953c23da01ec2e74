"""The status page in a real browser: laid out, readable in light and dark, and asking nobody."""

import asyncio
from collections.abc import Iterator
from typing import Any

import browser
import plain_http
import pytest
from browser import Tab
from stub_worker import StubWorker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(browser.binary() is None, reason=browser.MISSING),
]

# Every element with text of its own: its colour, and the colour that it stands on.
COLOURS = """
[...document.querySelectorAll("body *")].filter(e =>
  [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
).map(e => {
  let behind = e;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
    behind = behind.parentElement;
  return [e.tagName + "." + e.className, getComputedStyle(e).color,
          getComputedStyle(behind).backgroundColor];
})
"""


@pytest.fixture
def tab() -> Iterator[Tab]:
    with browser.browser() as found:
        yield found


async def serve(gateway: Any, *workers: StubWorker) -> None:
    await gateway.serve(*workers, draining=workers[1:])
    async with plain_http.client(gateway.url) as client:
        for _ in range(3):
            body = {"model": "m", "prompt": "x" * 999}
            (await client.post("/v1/completions", json=body)).raise_for_status()


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(", ")]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


async def test_its_tables_are_there_without_scripts(gateway: Any, tab: Tab) -> None:
    async with StubWorker() as worker, StubWorker() as draining:
        await serve(gateway, worker, draining)
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await asyncio.to_thread(tab.open, f"{gateway.url}/status")
        heads = tab.evaluate("[...document.querySelectorAll('h2')].map(e => e.textContent)")
        tables = ["Models", "Pools", "Queues", "Waiting for", "Workers", "Last decisions"]
        assert heads == tables
        rows = tab.evaluate(
            "[...document.querySelectorAll('section:nth-of-type(5) tbody tr')]"
            ".map(r => [...r.cells].map(c => c.textContent))"
        )
        assert {(row[0], row[5]) for row in rows} == {
            (f"w{worker.port}", "Ready"),
            (f"w{draining.port}", "Draining"),
        }
        decided = "document.querySelectorAll('section:nth-of-type(6) tbody tr').length"
        assert tab.evaluate(decided) == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_is_readable(gateway: Any, tab: Tab, scheme: str) -> None:
    async with StubWorker() as worker, StubWorker() as draining:
        await serve(gateway, worker, draining)
        tab.prefer(scheme)
        await asyncio.to_thread(tab.open, f"{gateway.url}/status?refresh=30")
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (contrast(paper, "rgb(0, 0, 0)") > 10) == (scheme == "light")
        found = tab.evaluate(COLOURS)
        assert len(found) > 50
        poor = {name: c for name, ink, under in found if (c := contrast(ink, under)) < 4.5}
        assert poor == {}


async def test_it_breaks_no_rule_of_its_policy_and_asks_nobody_else(gateway: Any, tab: Tab) -> None:
    async with StubWorker() as worker:
        await serve(gateway, worker)
        await asyncio.to_thread(tab.open, f"{gateway.url}/status")
        asked = [e["request"]["url"] for e in tab.named("Network.requestWillBeSent")]
        assert {url for url in asked if not url.endswith("/favicon.ico")} == {
            f"{gateway.url}/status"
        }
        said = [e["entry"]["text"] for e in tab.named("Log.entryAdded")]
        assert not [text for text in said if "Content Security Policy" in text]
        # It is the policy that holds: a script or style put into the page does nothing.
        tab.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<p id=p style=\"color:red\">x</p>')"
        )
        colour = tab.evaluate("getComputedStyle(document.getElementById('p')).color")
        assert colour != "rgb(255, 0, 0)"


async def test_it_fits_a_telephone(gateway: Any, tab: Tab) -> None:
    """Tables scroll by themselves; the page does not."""
    async with StubWorker() as worker:
        await serve(gateway, worker)
        tab.call(
            "Emulation.setDeviceMetricsOverride",
            width=360, height=740, deviceScaleFactor=1, mobile=True,
        )  # fmt: skip
        await asyncio.to_thread(tab.open, f"{gateway.url}/status")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
