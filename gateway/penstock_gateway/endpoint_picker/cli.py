"""`penstock-endpoint-picker`: settings in, a serving process out."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from penstock_contract.flags import duration_flag, port_flag, quantity_flag
from penstock_contract.worker_token import WorkerTokens


def main() -> None:
    """Pick workers for the requests of a gateway until told to stop."""
    parser = _parser()
    options = parser.parse_args()
    if options.max_bodies < options.max_body:
        parser.error("--max-bodies: must not be less than --max-body")
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--fleet", type=Path, help="file that lists models and workers")
    source.add_argument(
        "--kubernetes",
        action="store_true",
        help="watch the cluster that this runs in, or the one that KUBECONFIG names",
    )
    add(
        "--namespace",
        action="append",
        default=[],
        help="watch only this namespace; may be repeated (default: all)",
    )
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
    add("--max-body", type=quantity_flag, default=32 << 20, help="like 32Mi; largest request body")
    add(
        "--max-bodies",
        type=quantity_flag,
        default=128 << 20,
        help="like 128Mi; all request bodies together",
    )
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser
