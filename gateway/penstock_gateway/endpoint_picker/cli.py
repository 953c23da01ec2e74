"""`penstock-endpoint-picker`: settings in, a serving process out."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from penstock_contract.flags import duration_flag, port_flag
from penstock_contract.worker_token import WorkerTokens
from penstock_gateway.flags import add_bodies, add_fleet, fill_bodies


def main() -> None:
    """Pick workers for the requests of a gateway until told to stop."""
    parser = _parser()
    options = parser.parse_args()
    fill_bodies(parser, options)
    if options.cert_path and not options.secure_serving:
        parser.error("--cert-path: give --secure-serving, too")
    if options.endpoints < 1:
        parser.error("--endpoints: must be 1 or more")
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # tells of every call of the API server
    try:
        from penstock_gateway.endpoint_picker.serving import serve
    except ImportError as error:
        _refuse(f"{error}; install the extra: pip install penstock[gateway,endpoint-picker]")
    try:
        tokens = WorkerTokens.of(os.environ)
        listener = socket.create_server(
            (options.host, options.http_port),
            family=socket.AF_INET6 if ":" in options.host else socket.AF_INET,
        )
    except ValueError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"--http-port: cannot listen on {options.http_port}: {error.strerror}")
    sys.exit(uvloop.run(serve(options, listener, tokens)))


def _refuse(problem: str) -> None:
    sys.stderr.write(f"penstock-endpoint-picker: {problem}\n")
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock-endpoint-picker", description=__doc__)
    add = parser.add_argument
    add_fleet(parser)
    add(
        "--deployment",
        default="",
        help="NAMESPACE/NAME of the InferenceDeployment whose workers the InferencePool has "
        "(default: all that are watched)",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=port_flag, default=9002, help="for the gateway (gRPC)")
    add("--http-port", type=port_flag, default=8000, help="for metrics, health and the operator")
    add("--secure-serving", action="store_true", help="speak TLS to the gateway")
    add(
        "--cert-path",
        type=Path,
        help="folder with tls.crt and tls.key, read again when replaced (default: self-signed)",
    )
    add(
        "--endpoints",
        type=int,
        default=1,
        help="named for each request: the best, and those that a gateway that retries goes on to",
    )
    add("--drain-timeout", type=duration_flag, default=30.0, help="like 30s; for running streams")
    add_bodies(parser)
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser
