"""A ramp of load, and a pool that follows it: `make demo-autoscale`, about four minutes.

Everything is real: `penstock up` starts a gateway and one worker, an open loop of requests comes
faster and then slower, and the autoscaler sizes the pool by what it measures. Each time that it
does, the arithmetic is printed. State lies in a temporary folder; the picture and the log of
decisions are left in the folder that you name (default: ./demo-autoscale).
"""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from demo import BOLD, DIM, PLAIN, free_port, penstock, step
from openai import AsyncOpenAI, OpenAIError

HERE = Path(__file__).parent
NAME = "ramp"
RISING = (0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8)
"""Work that arrives, in workers, L = λ·w, by what the worker measured when it started: it may be
faster now, so the load rises until the pool does."""
STEP = 20.0
"""Seconds that each load lasts."""
FALLING = ((0.3, STEP), (0.0, 120.0))
"""(work, for so many seconds)"""
TOKENS = 160
PROMPT = "A list is a sequence. " * 8


@dataclass
class History:
    """What happened, by seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    sizes: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, wanted, ready)"""

    @property
    def grown(self) -> bool:
        """Whether more than one worker was asked for."""
        return any(wanted > 1 for _, wanted, _ in self.sizes)

    @property
    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began


def main() -> None:
    """Run the demonstration; a lost request, or a pool that does not follow, ends it badly."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-autoscale")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as home:
        os.environ["PENSTOCK_HOME"] = home
        port = free_port()
        step("Start a gateway and one worker", "penstock up examples/autoscaling.yaml --detach")
        penstock("up", str(HERE / "autoscaling.yaml"), "--detach", "--port", str(port))
        try:
            history = asyncio.run(demonstrate(port))
            for decisions in (Path(home) / "autoscaling").glob(f"{NAME}.jsonl"):
                shutil.copy(decisions, output / "decisions.jsonl")
        finally:
            step("Shut down", "penstock down")
            penstock("down")
            for log in (Path(home) / "logs").glob("*.log"):
                shutil.copy(log, output)
    draw(history, output / "ramp.png")
    conclude(history, output)


async def demonstrate(port: int) -> History:
    """Send the ramp while watching the pool."""
    history = History()
    step("Send a ramp of requests", f"{TOKENS} tokens each, open loop: nobody waits for answers")
    watching = asyncio.create_task(watch(history))
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="not-needed", max_retries=0, timeout=120
    ) as client:
        work = worth(port)
        print(f"a request is {work * 1000:.0f} ms of one worker's work, by its own measurement")
        await send(client, history, work)
    watching.cancel()
    return history


def worth(port: int) -> float:
    """Return w, the seconds of a worker that one request takes, from what the worker measured."""
    found = json.loads(penstock("get", "-o", "json", quiet=True))
    url = found["items"][0]["workers"][0]["url"]
    tokenize = {"model": NAME, "prompt": PROMPT}
    prompt = httpx.post(f"http://127.0.0.1:{port}/tokenize", json=tokenize).json()["count"]
    cost = {
        line.split('term="')[1].split('"')[0]: float(line.split()[-1])
        for line in httpx.get(f"{url}/metrics").text.splitlines()
        if line.startswith("penstock_worker_step_cost_seconds{")
    }
    context = prompt + TOKENS / 2
    decode = TOKENS * (cost["sequence"] + cost["kv_token"] * context)
    return float(prompt * cost["prefill_token"] + decode)


async def send(client: AsyncOpenAI, history: History, work: float) -> None:
    """Send requests at the ramp's rates (Poisson, fixed seed), and wait for every answer."""
    chance = random.Random(7)
    async with asyncio.TaskGroup() as tasks:

        async def last(load: float, seconds: float) -> None:
            rate = load / work
            history.rates.append((history.now, rate))
            print(f"\n{BOLD}{rate:.1f} requests per second{PLAIN}, L = {load:g}", flush=True)
            end = time.monotonic() + seconds
            while rate and (pause := chance.expovariate(rate)) < end - time.monotonic():
                await asyncio.sleep(pause)
                tasks.create_task(ask(client, history, history.sent))
                history.sent += 1
            await asyncio.sleep(max(0.0, end - time.monotonic()))

        for load in RISING:
            await last(load, STEP)
            if history.grown:
                await last(load, STEP)
                break
        for load, seconds in FALLING:
            await last(load, seconds)
    history.rates.append((history.now, 0))


async def ask(client: AsyncOpenAI, history: History, number: int) -> None:
    """Send one request that no cache has seen, and count its answer when it is whole."""
    try:
        answer = await client.completions.create(
            model=NAME,
            prompt=f"{number}. {PROMPT}",
            max_tokens=TOKENS,
            temperature=0,
            extra_body={"ignore_eos": True},
        )
    except OpenAIError as error:
        history.lost.append(f"request {number}: {error}")
        return
    if answer.usage is None or answer.usage.completion_tokens != TOKENS:
        history.lost.append(f"request {number}: an incomplete answer")
    else:
        history.answered += 1


async def watch(history: History) -> None:
    """Note the pool's size every second; explain every change of what is wanted."""
    wanted = 1
    while True:
        pool = await asyncio.to_thread(state)
        history.sizes.append((history.now, pool["desired"], pool["ready"]))
        if pool["desired"] != wanted:
            text = await asyncio.to_thread(penstock, "explain", NAME, quiet=True)
            print(f"\n{BOLD}{wanted} -> {pool['desired']} workers{PLAIN}  penstock explain {NAME}")
            print(f"{DIM}{text}{PLAIN}", flush=True)
            wanted = pool["desired"]
        await asyncio.sleep(1)


def state() -> dict[str, Any]:
    """Return the pool's status."""
    found = json.loads(penstock("get", "-o", "json", quiet=True))
    pool: dict[str, Any] = {"desired": 0, "ready": 0, **found["items"][0]["status"]["pools"][0]}
    return pool


def draw(history: History, path: Path) -> None:
    """Draw the ramp and the pool's size."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (load, pool) = plt.subplots(2, sharex=True, figsize=(9, 5), layout="constrained")
    load.step([t for t, _ in history.rates], [r for _, r in history.rates], where="post")
    load.set_ylabel("requests per second")
    times = [t for t, _, _ in history.sizes]
    pool.step(times, [w for _, w, _ in history.sizes], where="post", label="wanted")
    pool.step(times, [r for _, _, r in history.sizes], where="post", label="ready")
    pool.set_ylabel("workers")
    pool.set_xlabel("seconds")
    pool.set_ylim(bottom=0)
    pool.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def conclude(history: History, output: Path) -> None:
    """Say what came of it."""
    most, last = max(w for _, w, _ in history.sizes), history.sizes[-1][1]
    print(f"\n{BOLD}{history.answered} of {history.sent} requests answered{PLAIN}, "
          f"{len(history.lost)} lost; workers 1 to {most} and back to {last}")  # fmt: skip
    print(f"picture: {output / 'ramp.png'}, decisions: {output / 'decisions.jsonl'}")
    if history.lost or most < 2 or last != 1:
        followed = "no growth or return; was the machine busy when the ramp was measured?"
        why = history.lost[0] if history.lost else followed
        sys.exit(f"the demo failed: {why}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"the demo failed: {error}")
