"""The file of tenants that a gateway reads; a tenant's key is its name with `sk-` before it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from penstock_contract.api_keys import hash_of


class TenantsFile:
    """Replaced as a whole, so that no gateway reads half of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write()

    def write(self, **specs: Mapping[str, Any]) -> None:
        """Let there be these tenants, by name, and no others."""
        documents = [
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "Tenant",
                "metadata": {"name": name},
                "spec": {"apiKeys": [{"sha256": hash_of(f"sk-{name}")}], **spec},
            }
            for name, spec in specs.items()
        ]
        temporary = self.path.with_suffix(".new")
        temporary.write_text(yaml.safe_dump_all(documents))
        temporary.replace(self.path)
