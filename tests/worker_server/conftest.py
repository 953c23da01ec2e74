"""One real worker on the example model for all tests that only ask it questions."""

from collections.abc import Iterator

import pytest
from openai import OpenAI
from worker_process import EXAMPLE_MODEL, WorkerProcess, eventually, worker

from penstock_worker.text.tokenizer import Tokenizer


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(EXAMPLE_MODEL)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with worker(tmp_path_factory.mktemp("worker") / "log") as found:
        eventually(lambda: found.health() == (200, "ok"), "the worker is ready")
        yield found


@pytest.fixture(scope="session")
def client(served: WorkerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found
