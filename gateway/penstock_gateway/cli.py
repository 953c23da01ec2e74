"""`penstock-gateway`: settings in, a serving process out, or several."""

import argparse
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import uvloop

from penstock_contract.flags import duration_flag, port_flag
from penstock_contract.on_behalf import ENVIRONMENT, Seals
from penstock_contract.worker_token import WorkerTokens
from penstock_gateway.descriptors import DEFAULT, most_connections, raised_limit
from penstock_gateway.flags import add_bodies, add_fleet, fill_bodies
from penstock_gateway.serving import serve

if TYPE_CHECKING:
    from penstock_gateway.siblings.parent import Origin

MOST_PROCESSES: Final = 32
"""Each one tells all others what it does: beyond some, more gateways are the better choice."""
LOG: Final = "%(asctime)s %(levelname)s %(name)s{} %(message)s"


def main() -> None:
    """Serve a fleet until told to stop."""
    parser = _parser()
    options = parser.parse_args()
    _check(parser, options)
    logging.basicConfig(level=options.log_level.upper(), format=LOG.format(""))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # tells of every call of the API server
    try:
        options.max_connections = most_connections(options.max_connections, raised_limit())
    except ValueError as error:
        parser.error(f"--max-connections: {error}")
    try:
        tokens = WorkerTokens.of(os.environ)
        options.seals = Seals.of(os.environ) if options.batches else Seals()
        if options.batches and not options.seals.values:
            raise ValueError(f"--batches: set {ENVIRONMENT}, the token of the batch service")
    except ValueError as error:
        sys.stderr.write(f"penstock-gateway: {error}\n")
        sys.exit(2)
    if options.processes > 1:
        _serve_together(options, tokens)
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        _cannot_listen(options, error)
    sys.exit(uvloop.run(serve(options, listener, tokens)))


def _serve_together(options: argparse.Namespace, tokens: WorkerTokens) -> NoReturn:
    """Serve with several processes; what that takes, one process does without."""
    from penstock_gateway.siblings.member import Member
    from penstock_gateway.siblings.parent import Parent, join, reserve

    if options.kubernetes:
        import penstock_gateway.fleet.cluster  # noqa: F401 - once, for all to share its memory
    try:
        reserved = reserve(options.host, options.port)
    except OSError as error:
        _cannot_listen(options, error)
    try:
        parent = Parent(options.processes)
    except OSError as error:
        sys.exit(f"penstock-gateway: --processes: no folder for what they share: {error}")
    found = parent.run()
    if isinstance(found, int):
        sys.exit(found)
    _name_in_log(found)
    member = Member(found, time.monotonic, keys_required=options.require_keys)
    sys.exit(uvloop.run(serve(options, join(reserved), tokens, member)))


def _name_in_log(origin: "Origin") -> None:
    form = logging.Formatter(LOG.format(f"[{origin.process.number}]"))
    for handler in logging.getLogger().handlers:
        handler.setFormatter(form)


def _cannot_listen(options: argparse.Namespace, error: OSError) -> NoReturn:
    address = f"{options.host}:{options.port}"
    sys.stderr.write(f"penstock-gateway: --port: cannot listen on {address}: {error.strerror}\n")
    sys.exit(2)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what does not go together, and fill in what follows from the rest."""
    if not 1 <= options.processes <= MOST_PROCESSES:
        parser.error(f"--processes: must be between 1 and {MOST_PROCESSES}")
    fill_bodies(parser, options, options.processes)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock-gateway", description=__doc__)
    add = parser.add_argument
    add_fleet(parser)
    tenants = parser.add_mutually_exclusive_group()
    tenants.add_argument("--tenants", type=Path, help="file of Tenants (YAML)")
    tenants.add_argument("--tenant-namespace", help="watch the Tenants of this namespace")
    add("--tenant-secrets", action="store_true", help="read the Secrets that those Tenants name")
    add(
        "--require-keys",
        action="store_true",
        help="let nobody in without an API key, even while there is no tenant",
    )
    add("--batches", help="URL of the batch service, which has /v1/files and /v1/batches")
    add("--host", default="127.0.0.1")
    add("--port", type=port_flag, default=8000)
    add("--drain-timeout", type=duration_flag, default=30.0, help="like 30s; for running streams")
    add_bodies(parser)
    add(
        "--client-timeout",
        type=duration_flag,
        default=30.0,
        help="like 30s; for a request's head, a pause in its body, and an answer that is not read",
    )
    add(
        "--max-connections",
        type=int,
        help=f"of clients; more are sent away (default: {DEFAULT}, or what RLIMIT_NOFILE allows)",
    )
    add(
        "--processes",
        type=int,
        default=1,
        help="that serve the port together, each on a core of its own (default: 1)",
    )
    add(
        "--debug-headers",
        action="store_true",
        help="tell clients which worker answered and why it was chosen",
    )
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser
