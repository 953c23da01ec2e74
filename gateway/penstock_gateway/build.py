"""Compiles the data path with mypyc: `python -m penstock_gateway.build FOLDER`.

What every request passes through is typed strictly, so mypyc can make machine code of it: the same
sources, about half the CPU. FOLDER gets a copy of the package with an extension module beside each
compiled source, and Python prefers those. The image's FOLDER is its site-packages; a developer's is
one to put first in PYTHONPATH, so that no edited source is ever shadowed by a stale extension.

It needs a C compiler, Python's headers, and mypy and setuptools (the extra `compiler`).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import penstock_contract
from penstock_gateway.relay import relay

COMPILED: Final = (
    "admission/departure_rate.py",
    "admission/fair_queue.py",
    "admission/places.py",
    "admission/processes.py",
    "client_timeouts.py",
    "completions.py",
    "delegated.py",
    "dialect.py",
    "fleet/directory.py",
    "instruments.py",
    "metrics.py",
    "protocol.py",
    "relay/attempt.py",
    "relay/bodies.py",
    "relay/bounds.py",
    "relay/call.py",
    "relay/client_answer.py",
    "relay/client_connection.py",
    "relay/connection_pool.py",
    "relay/context.py",
    "relay/continuable.py",
    "relay/decisions.py",
    "relay/exchange.py",
    "relay/gate.py",
    "relay/hold.py",
    "relay/intake.py",
    "relay/outline.py",
    "relay/permit.py",
    "relay/pipelined.py",
    "relay/prompt.py",
    "relay/read_back.py",
    "relay/resumable_stream.py",
    "relay/relay.py",
    "relay/request.py",
    "relay/response.py",
    "relay/send.py",
    "relay/stop_strings.py",
    "relay/token_ids.py",
    "relay/token_stream.py",
    "relay/upstream.py",
    "relay/vllm_events.py",
    "relay/watchdog.py",
    "routing/affinity.py",
    "routing/breaker.py",
    "routing/destination.py",
    "routing/generations.py",
    "routing/observation.py",
    "routing/policies.py",
    "routing/policy.py",
    "routing/prefix_index.py",
    "routing/prompt_cost.py",
    "routing/retry_budget.py",
    "routing/room.py",
    "routing/router.py",
    "routing/speed.py",
    "routing/ticket.py",
    "routing/unseen_prompts.py",
    "routing/worker_load.py",
    "siblings/change_log.py",
    "siblings/router.py",
    "siblings/tenancy.py",
    "tenants/bucket.py",
    "tenants/meter.py",
    "tenants/tenancy.py",
    "tenants/tenant.py",
    "tenants/tenant_request.py",
    "tenants/usage.py",
    "traces.py",
)
"""What every request passes through, and what extends a class of that."""

_PACKAGE: Final = Path(__file__).parent
_SETUP: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
modules = mypycify(["--namespace-packages", "--explicit-package-bases", "--ignore-missing-imports",
                    *sys.argv[1:]], opt_level="%d", debug_level="0", group_name=%r)
setup(name="compiled", packages=[], ext_modules=modules,
      script_args=["--quiet", "build_ext", "--inplace", "--parallel", "%d"])
"""


def is_compiled() -> bool:
    """Return whether this process runs the compiled form."""
    return not (relay.__file__ or "").endswith(".py")


def build(folder: Path, optimise: int = 2) -> None:
    """Write the package and its extension modules into a folder.

    Args:
        folder: to write into.
        optimise: the C compiler's level; with 0 it takes half of the time.

    Raises:
        subprocess.CalledProcessError: mypyc or the C compiler refused; they have said why.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        package = scratch / _PACKAGE.name
        shutil.copytree(_PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        sources = [f"{_PACKAGE.name}/{source}" for source in COMPILED]
        setup = _SETUP % (optimise, _PACKAGE.name, os.cpu_count() or 1)
        contract = str(Path(penstock_contract.__file__).parent.parent)
        search = {} if "site-packages" in contract else {"MYPYPATH": contract}
        subprocess.run(
            [sys.executable, "-c", setup, *sources],
            cwd=scratch,
            check=True,
            env={**os.environ, **search},
        )
        shutil.rmtree(scratch / "build")
        folder.mkdir(parents=True, exist_ok=True)
        # One by one: the scratch folder's own mode, which lets nobody else in, stays with it.
        shutil.copytree(package, folder / package.name, dirs_exist_ok=True)
        for library in scratch.glob("*.so"):
            shutil.copy2(library, folder)


def main() -> None:
    """Build into the folder that is named."""
    parser = argparse.ArgumentParser(prog="python -m penstock_gateway.build")
    parser.add_argument("folder", type=Path, help="site-packages, or what comes before it")
    folder = parser.parse_args().folder
    try:
        build(folder)
    except subprocess.CalledProcessError:
        sys.exit("The gateway works without being compiled, at about twice the CPU.")
    sys.stderr.write(f"{folder / _PACKAGE.name}\n")


if __name__ == "__main__":
    main()
