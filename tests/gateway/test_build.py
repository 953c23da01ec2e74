"""The data path can be compiled, and what comes out relays; `make test-compiled` tests the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stream_auditor import record
from stub_worker import EVENTS, OK, StubWorker

from penstock_gateway.build import COMPILED, build, is_compiled

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(is_compiled(), reason="these tests run compiled already"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

CHATTING = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.timeout(600)
async def test_the_compiled_gateway_relays(gateway: Any, tmp_path: Path) -> None:
    compiled = tmp_path / "compiled"
    build(compiled, optimise=0)
    for source in COMPILED:
        path = compiled / "penstock_gateway" / source
        assert list(path.parent.glob(f"{path.stem}.*.so")), source
    # The image's gateway runs as another user than built it.
    assert all(path.stat().st_mode & 0o004 for path in [compiled, *compiled.rglob("*")])
    folder = tmp_path / "gateway"
    folder.mkdir()
    found = type(gateway)(folder, environment={"PYTHONPATH": str(compiled)})
    try:
        await found.start()
        assert "(compiled)" in found.said()
        async with StubWorker() as worker:
            await found.serve(worker)
            whole = await record(found.url, "/v1/chat/completions", CHATTING)
            assert whole.body == OK
            worker.script = "stream"
            stream = {**CHATTING, "stream": True}
            streamed = await record(found.url, "/v1/chat/completions", stream)
            assert streamed.clean_end
            assert streamed.body == b"".join(EVENTS)
            assert json.loads(worker.seen[0].body) == CHATTING
    finally:
        found.stop()
