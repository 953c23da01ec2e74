"""A checker of the `restricted` Pod Security Standard, independent of the code that makes pods.

Written from https://kubernetes.io/docs/concepts/security/pod-security-standards/, with what
Penstock promises on top: read-only root, uid of 10000 or more, no service-account token.
"""

from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip


def violations(pod: dict[str, Any]) -> list[str]:
    """Return what a pod spec does that the standard forbids; empty: it conforms."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", []):
        found += [f"volume type {key}" for key in volume.keys() - {"name"} if key not in VOLUMES]
    if pod.get("automountServiceAccountToken") is not False:
        found.append("a service-account token is mounted")
    outer = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        found += [f"{container['name']}: {text}" for text in _container(container, outer)]
    return found


def _container(container: dict[str, Any], outer: dict[str, Any]) -> list[str]:
    own = container.get("securityContext", {})
    both = {**outer, **own}
    capabilities = own.get("capabilities", {})
    checks = {
        "privileged": not own.get("privileged"),
        "privilege escalation": own.get("allowPrivilegeEscalation") is False,
        "root user": both.get("runAsNonRoot") is True,
        "uid below 10000": both.get("runAsUser", 0) >= 10_000,
        "seccomp": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        "capabilities kept": "ALL" in capabilities.get("drop", []),
        "capabilities added": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
        "writable root": own.get("readOnlyRootFilesystem") is True,
        "host port": not any(port.get("hostPort") for port in container.get("ports", [])),
    }
    return [name for name, holds in checks.items() if not holds]
