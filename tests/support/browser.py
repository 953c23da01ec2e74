"""A real headless browser, spoken to over its DevTools protocol; no driver, nothing downloaded."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import plain_http
import websocket
from waiting import PATIENCE

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = f"no browser: install one of {', '.join(NAMES)}, or name a binary in BROWSER"


def binary() -> str | None:
    """Return a browser's path; None where there is none."""
    if named := os.environ.get("BROWSER"):
        return named
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One page."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append(message)

    def open(self, url: str) -> None:
        """Load a page, and return when it is there."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE
        while not self.named("Page.loadEventFired"):
            assert time.monotonic() < deadline, f"{url} does not load"
            self.evaluate("1")

    def named(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of the events of a kind since the page was opened."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page, as JSON carries it."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def prefer(self, scheme: str) -> None:
        """Have the page think that its reader prefers `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browser() -> Iterator[Tab]:
    """Start a browser, yield a tab of it, and end it."""
    found = binary()
    assert found is not None, MISSING
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(found, "--headless", "--no-sandbox", "--disable-gpu"),
                    *("--remote-debugging-port=0", f"--user-data-dir={folder}/profile"),
                    *("--no-first-run", "--disable-dev-shm-usage", "about:blank"),
                ],
                stderr=output,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Debian's program is a script that starts the browser
            )
        try:
            tab = Tab(_address(process, log))
            yield tab
            tab.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return where the first tab is spoken to."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        said = re.search(r"listening on ws://([^/]+)/", log.read_text(errors="replace"))
        if said:
            tabs = plain_http.get(f"http://{said[1]}/json").json()
            pages = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            if pages:
                return str(pages[0])
        time.sleep(0.05)
    raise AssertionError(f"the browser does not start: {log.read_text(errors='replace')}")
