"""Reads from the API server: lists and watches, as plain objects.

`kubernetes` finds the cluster and its credentials (service account, kubeconfig, renewal of tokens);
the calls themselves are plain HTTP, since its generated classes would cost milliseconds per pod.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
GONE = 410
_MALFORMED = (TypeError, ValueError, AttributeError, KeyError, OSError, yaml.YAMLError)
"""What `kubernetes` raises about a file that is there and is no kubeconfig."""
WATCH_SECONDS = 240
"""A watch is renewed by then; the server would end it at some time of its own."""
QUIET_SECONDS = 100.0
"""Bookmarks come every minute: a watch that is silent for longer may be dead, and is begun again.

Older servers send none of a kind of which nothing has changed since they were started.
"""
_KEEPALIVE = (
    # A peer that vanished without a word is noticed in half a minute instead of two hours.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

Object = dict[str, Any]


class ApiServerError(Exception):
    """The API server refused, or could not be asked (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Collection:
    """Objects of one kind, in one namespace or in all."""

    group: str
    """`api/v1` or `apis/GROUP/VERSION`."""
    plural: str
    selector: str = ""
    """Label selector."""
    fields: str = ""
    """Field selector."""
    namespace: str | None = None

    @property
    def path(self) -> str:
        """Return its URL path."""
        scope = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"/{self.group}/{scope}{self.plural}"

    def __str__(self) -> str:
        return self.plural + (f" in {self.namespace}" if self.namespace else "")


class ApiServer:
    """The API server, for reading."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        transport = httpx.AsyncHTTPTransport(
            verify=_verification(configuration), socket_options=_KEEPALIVE
        )
        self._http = httpx.AsyncClient(
            base_url=configuration.host,
            transport=transport,
            timeout=httpx.Timeout(30.0, connect=10.0),
            headers={"user-agent": "penstock-gateway", "accept": "application/json"},
        )

    async def list(self, collection: Collection) -> tuple[list[Object], str]:
        """Return all objects, and the version that they show.

        Raises:
            ApiServerError: they cannot be had now.
        """
        try:
            answer = await self._http.get(
                collection.path, params=_selection(collection), headers=self._authorization()
            )
        except httpx.HTTPError as error:
            raise _unreachable(collection, error) from error
        if answer.is_error:
            raise ApiServerError(answer.status_code, f"{collection}: {answer.text[:500]}")
        found = orjson.loads(answer.content)
        return found["items"], found["metadata"]["resourceVersion"]

    async def watch(
        self, collection: Collection, version: str, opened: Callable[[], None]
    ) -> AsyncIterator[Object]:
        """Yield the events after a version, until the server ends the watch.

        Args:
            collection: what to watch.
            version: of a list, or of the last event.
            opened: called when the server has agreed.

        Raises:
            ApiServerError: it broke off; with status GONE the version is too old.
        """
        parameters = {
            **_selection(collection),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        try:
            async with self._http.stream(
                "GET",
                collection.path,
                params=parameters,
                headers=self._authorization(),
                timeout=httpx.Timeout(10.0, read=QUIET_SECONDS),
            ) as answer:
                if answer.is_error:
                    message = (await answer.aread())[:500].decode(errors="replace")
                    raise ApiServerError(answer.status_code, f"{collection}: {message}")
                opened()
                async for line in answer.aiter_lines():
                    yield _event(collection, line)
        except httpx.ReadTimeout:
            return  # whether the server is away, the next attempt tells
        except httpx.HTTPError as error:
            raise _unreachable(collection, error) from error

    def _authorization(self) -> dict[str, str]:
        """Asked for at every call: a service account's token is replaced every hour."""
        found = self._configuration.auth_settings().get("BearerToken")
        return {"authorization": found["value"]} if found and found["value"] else {}


def configuration() -> Configuration:
    """Return the cluster that a pod runs in, else the one that KUBECONFIG names.

    Raises:
        kubernetes.config.ConfigException: there is neither, or the file is no kubeconfig.
    """
    found = Configuration()
    if SERVICE_ACCOUNT.exists() and "KUBECONFIG" not in os.environ:
        load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        return found
    try:
        load_kube_config(client_configuration=found)  # type: ignore[no-untyped-call]
    except _MALFORMED as error:
        named = os.environ.get("KUBECONFIG", "~/.kube/config")
        words = " ".join(str(error).split())
        raise ConfigException(f"{named} is no kubeconfig: {words}") from error
    return found


def _selection(collection: Collection) -> dict[str, str]:
    wanted = {"labelSelector": collection.selector, "fieldSelector": collection.fields}
    return {name: value for name, value in wanted.items() if value}


def _event(collection: Collection, line: str) -> Object:
    try:
        event: Object = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ApiServerError(0, f"{collection}: a watch event is not JSON: {error}") from error
    if event["type"] == "ERROR":
        status = event["object"]
        message = f"{collection}: {status.get('message', '')}"
        raise ApiServerError(int(status.get("code", 0)), message)
    return event


def _unreachable(collection: Collection, error: Exception) -> ApiServerError:
    return ApiServerError(0, f"{collection}: {str(error) or type(error).__name__}")


def _verification(found: Configuration) -> ssl.SSLContext | bool:
    if not found.host.startswith("https"):
        return False
    context = ssl.create_default_context(cafile=found.ssl_ca_cert)
    if not found.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if found.cert_file:
        context.load_cert_chain(found.cert_file, found.key_file)
    return context
