"""Tenants on this machine: a key where a manifest asks for one, and none anywhere else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_http
import pytest

from penstock_contract.api_keys import hash_of

pytestmark = pytest.mark.e2e

Write = Callable[..., Path]


def new_key(machine: Any) -> tuple[str, str]:
    """Return a new key and its hash, as the command prints them."""
    words = machine.run("tenant", "new-key").split()
    assert words[::2] == ["key", "sha256"]
    return words[1], words[3]


def tenant(digest: str) -> str:
    return (
        "---\napiVersion: penstock.dev/v1alpha1\nkind: Tenant\nmetadata: {name: team}\n"
        f"spec: {{apiKeys: [{{sha256: {digest}}}]}}\n"
    )


def status(machine: Any, key: str | None) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{machine.port}/v1/models"
    return plain_http.get(url, headers=headers).status_code


def test_a_new_key_is_printed_with_its_hash_and_never_twice(machine: Any) -> None:
    (key, digest), (other, _) = new_key(machine), new_key(machine)
    assert digest == hash_of(key)
    assert key != other


def test_a_manifest_with_a_tenant_takes_its_key_and_no_other(machine: Any, manifest: Write) -> None:
    key, digest = new_key(machine)
    path = manifest()
    path.write_text(path.read_text() + tenant(digest))
    machine.up(path)
    assert [status(machine, sent) for sent in (None, "sk-wrong", key)] == [401, 401, 200]
    assert "needs an API key" in machine.run("chat", "hello", code=1)
    machine.environment["PENSTOCK_API_KEY"] = key
    assert machine.run("chat", "hello").strip()
    assert all(key not in log.read_text() for log in machine.state.logs.glob("*.log"))

    other, replaced = new_key(machine)
    path.write_text(tenant(replaced))
    assert "team" in machine.run("up", path)
    machine.eventually(lambda: status(machine, key) == 401, "the old key is refused")
    assert status(machine, other) == 200


def test_without_a_tenant_nobody_needs_a_key_and_the_log_says_so(
    machine: Any, manifest: Write
) -> None:
    machine.up(manifest())
    assert status(machine, None) == status(machine, "anything") == 200
    assert "open mode" in machine.run("logs", "gateway")
