"""Calls to the API server: plain objects in and out, every one counted.

`kubernetes` finds the credentials (kubeconfig, service account, token rotation); the calls are
plain HTTP, because what is written here are documents, not generated classes.
"""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import httpx
import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from penstock_contract.labels import FIELD_MANAGER_OPERATOR
from penstock_operator.cluster.kinds import Kind
from penstock_operator.cluster.metrics import OperatorMetrics
from penstock_operator.manifests import Object

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
CONFLICT = 409
_MALFORMED = (TypeError, ValueError, AttributeError, KeyError, OSError, yaml.YAMLError)
"""What `kubernetes` raises about a file that is there and is no kubeconfig."""
WATCH_SECONDS = 290
"""A watch is renewed by then; the server would end it at some time of its own."""


class ApiError(Exception):
    """The API server refused, or could not be asked (status 0)."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def managers(self) -> list[str]:
        """Whose fields an apply without force would have changed."""
        found: list[str] = re.findall(r'conflicts? with "([^"]+)"', str(self))
        return found if self.status == CONFLICT else []


class Api:
    """An API server, as one field manager."""

    def __init__(
        self,
        configuration: Configuration,
        metrics: OperatorMetrics,
        field_manager: str = FIELD_MANAGER_OPERATOR,
    ) -> None:
        self._managed = {"fieldManager": field_manager}
        self._configuration = configuration
        self._metrics = metrics
        self._http = httpx.AsyncClient(
            base_url=configuration.host,
            verify=_verification(configuration),
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            headers={"user-agent": "penstock-operator", "accept": "application/json"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def served(self, versions: Iterable[str]) -> frozenset[str]:
        """Return the kinds that are served in groups and versions, like `apps/v1/Deployment`."""
        found = await asyncio.gather(*(self._kinds(version) for version in sorted(set(versions))))
        return frozenset(kind for kinds in found for kind in kinds)

    async def _kinds(self, version: str) -> list[str]:
        root = "api" if "/" not in version else "apis"
        try:
            found = await self._call("GET", f"/{root}/{version}")
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return []
            raise
        return [f"{version}/{item['kind']}" for item in found["resources"]]

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return an object; None: there is none."""
        try:
            return await self._call("GET", kind.path(namespace, name))
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str | None, selector: str = "", *, fields: str = ""
    ) -> Object:
        """Return the list object of a kind: its items and the version that it shows."""
        asked = {"labelSelector": selector, "fieldSelector": fields}
        parameters = {name: value for name, value in asked.items() if value}
        return await self._call("GET", kind.path(namespace), parameters)

    async def watch(
        self, kind: Kind, namespace: str | None, selector: str, version: str
    ) -> AsyncIterator[Object]:
        """Yield the changes of a kind after a version, until the server ends the watch."""
        parameters = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        if selector:
            parameters["labelSelector"] = selector
        timeout = httpx.Timeout(30.0, read=WATCH_SECONDS + 30)
        request = self._http.build_request(
            "GET",
            kind.path(namespace),
            params=parameters,
            headers=self._authorization(),
            timeout=timeout,
        )
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.is_error:
                    await answer.aread()
                    raise _refusal(answer)
                async for line in answer.aiter_lines():
                    yield json.loads(line)
            finally:
                await answer.aclose()
        except (httpx.RequestError, ValueError) as error:  # a line may be cut off, too
            raise ApiError(0, f"watching {kind.plural}: {_words(error)}") from error

    async def proxied(self, kind: Kind, namespace: str, name: str, path: str) -> str:
        """Return what a pod's or service's first port answers to a GET, as text."""
        return (await self._send("GET", f"{kind.path(namespace, name, 'proxy')}/{path}")).text

    async def create(
        self, kind: Kind, namespace: str, body: Object, *, strict: bool = False
    ) -> Object:
        """Create an object; ApiError 409 when it exists.

        Strict, 400 names a field that the server does not know, which is dropped otherwise
        (Kubernetes 1.25 and later).
        """
        more = {"fieldValidation": "Strict"} if strict else {}
        return await self._call("POST", kind.path(namespace), {**self._managed, **more}, body)

    async def apply(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Object,
        sub: str = "",
        *,
        force: bool = True,
    ) -> Object:
        """Server-side apply: what the body names is ours, whoever changed it.

        Without force, ApiError 409 names the managers that own what is to be changed.
        """
        parameters = {**self._managed, "force": "true" if force else "false"}
        path = kind.path(namespace, name, sub)
        return await self._call("PATCH", path, parameters, body, "application/apply-patch+yaml")

    async def merge(
        self, kind: Kind, namespace: str, name: str, patch: Object, sub: str = ""
    ) -> Object:
        """Merge-patch an object; with a resourceVersion in it, ApiError 409 when it is older."""
        path = kind.path(namespace, name, sub)
        return await self._call("PATCH", path, self._managed, patch, "application/merge-patch+json")

    async def replace(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Replace an object of the body's resourceVersion; ApiError 409 when it is older."""
        return await self._call("PUT", kind.path(namespace, name), self._managed, body)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str, version: str) -> None:
        """Delete the object that was read: gone already is fine, changed is ApiError 409."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid, "resourceVersion": version},
            "propagationPolicy": "Background",
        }
        try:
            await self._call("DELETE", kind.path(namespace, name), {}, body)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    async def _call(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
    ) -> Object:
        answer = await self._send(method, path, parameters, body, content)
        try:
            found = await asyncio.to_thread(answer.json) if _large(answer) else answer.json()
        except ValueError as error:  # somebody in between answered
            raise ApiError(0, f"{method} {path}: the answer is no JSON: {error}") from error
        return dict(found)

    async def _send(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        body: Object | None = None,
        content: str = "application/json",
    ) -> httpx.Response:
        headers = self._authorization()
        if body is not None:
            headers["content-type"] = content
        try:
            answer = await self._http.request(
                method,
                path,
                params=parameters,
                content=None if body is None else json.dumps(body).encode(),
                headers=headers,
            )
        except httpx.RequestError as error:
            self._metrics.called(method, 0)
            raise ApiError(0, f"{method} {path}: {_words(error)}") from error
        self._metrics.called(method, answer.status_code)
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _authorization(self) -> dict[str, str]:
        """Asked for at every call: a service account's token is replaced every hour."""
        found = self._configuration.auth_settings().get("BearerToken")
        return {"authorization": found["value"]} if found and found["value"] else {}


def configuration(context: str | None = None) -> Configuration:
    """Return the cluster that a pod runs in, else the one that KUBECONFIG names.

    Args:
        context: of the kubeconfig; None: its current one.

    Raises:
        kubernetes.config.ConfigException: there is neither, or the file is no kubeconfig.
    """
    found = Configuration()
    if SERVICE_ACCOUNT.exists() and "KUBECONFIG" not in os.environ and context is None:
        load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        return found
    try:
        load_kube_config(context=context, client_configuration=found)  # type: ignore[no-untyped-call]
    except _MALFORMED as error:
        named = os.environ.get("KUBECONFIG", "~/.kube/config")
        words = " ".join(str(error).split())
        raise ConfigException(f"{named} is no kubeconfig: {words}") from error
    return found


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


def _refusal(answer: httpx.Response) -> ApiError:
    try:
        message = str(answer.json().get("message", answer.text))
    except ValueError:
        message = answer.text
    after = answer.headers.get("retry-after", "")
    request = f"{answer.request.method} {answer.request.url.path}"
    wait = float(after) if after.isdigit() else None
    return ApiError(answer.status_code, f"{request}: {answer.status_code} {message[:500]}", wait)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _large(answer: httpx.Response) -> bool:
    return len(answer.content) > 1 << 20
