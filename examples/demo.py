"""All of Penstock in a minute: start, ask, stream, kill a worker, ask again, shut down.

Run it with `make demo`. Everything is real: the processes are those that `penstock up` starts, the
questions go through the gateway with the official `openai` client, and the state lives in a
temporary folder, so nothing of yours is touched.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

HERE = Path(__file__).parent
MODEL = "pydoc"
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def main() -> None:
    """Run the demonstration; any failed step ends it with an error."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as home:
        os.environ["PENSTOCK_HOME"] = home
        port = free_port()
        try:
            demonstrate(port)
        finally:
            step("Shut down", f"penstock down   {DIM}# drains, then ends every process{PLAIN}")
            penstock("down")
    print(f"\n{BOLD}That was Penstock.{PLAIN} Yours to keep: penstock up examples/quickstart.yaml")


def demonstrate(port: int) -> None:
    """Start two workers, talk to them, lose one, go on talking."""
    step("Start a gateway and two workers", "penstock up examples/quickstart.yaml --detach")
    penstock("up", str(HERE / "quickstart.yaml"), "--detach", "--port", str(port))
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="not-needed", max_retries=0)

    step("Ask through the gateway", "the official openai client, streaming")
    for question in ("What is a list?", "What is a generator?"):
        ask(client, question)

    step("Look at it", "penstock get")
    penstock("get")

    step("Kill a worker", "kill -9")
    victim = workers()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    print(f"killed {victim['id']} (pid {victim['pid']})")
    ask(client, "What is a decorator?")
    ask(client, "What does os.path.join do?")

    step("The operator replaces it", "penstock get")
    wait_until_replaced(victim["id"])
    penstock("get")


def ask(client: OpenAI, question: str) -> None:
    """Stream one answer to the screen; an empty one is a failure."""
    print(f"\n{BOLD}> {question}{PLAIN}")
    began = time.monotonic()
    first: float | None = None
    usage = None
    answer = ""
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=120,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                first = first or time.monotonic() - began
                answer += choice.delta.content
                print(choice.delta.content, end="", flush=True)
    if not answer.strip() or usage is None or first is None:
        sys.exit("the demo failed: no answer came")
    took = time.monotonic() - began
    print(
        f"\n{DIM}first token {first * 1000:.0f} ms, {usage.completion_tokens} tokens in "
        f"{took * 1000:.0f} ms{PLAIN}"
    )


def wait_until_replaced(gone: str, patience: float = 60.0) -> None:
    """Wait until two workers are ready again and none of them is the killed one."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ready = [worker["id"] for worker in workers() if worker["state"] == "Ready"]
        if len(ready) == 2 and gone not in ready:
            return
        time.sleep(0.2)
    sys.exit(f"the demo failed: {gone} was not replaced within {patience:.0f} s")


def workers() -> list[dict[str, Any]]:
    """Return the workers that the runtime reports."""
    found = json.loads(penstock("get", "-o", "json", quiet=True))
    return [worker for item in found["items"] for worker in item["workers"]]


def penstock(*arguments: str, quiet: bool = False) -> str:
    """Run the `penstock` of this environment; print what it prints unless quiet."""
    command = [str(Path(sys.executable).with_name("penstock")), *arguments]
    if quiet:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"the demo failed: penstock {' '.join(arguments)}")
    return ""


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def step(title: str, detail: str) -> None:
    """Announce a step."""
    print(f"\n{BOLD}== {title}{PLAIN}  {detail}", flush=True)


if __name__ == "__main__":
    main()
