"""Who reaches whom under a set of NetworkPolicies: the rules of networking.k8s.io, evaluated.

Covers what is used here: label selectors for pods and namespaces, ports, and empty peers.
"""

from dataclasses import dataclass, field
from typing import Any

Policy = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    namespace_labels: dict[str, str] = field(default_factory=dict)


def reaches(policies: list[Policy], source: Pod, target: Pod, port: int) -> bool:
    """Return whether a TCP connection is allowed at both of its ends."""
    leaves = _allowed(policies, "Egress", source, target, port)
    return leaves and _allowed(policies, "Ingress", target, source, port)


def _allowed(policies: list[Policy], direction: str, own: Pod, other: Pod, port: int) -> bool:
    """Return whether the policies of one end allow the connection; no policy allows everything."""
    mine = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and _matches(policy["spec"]["podSelector"], own.labels)
        and direction in policy["spec"]["policyTypes"]
    ]
    rules = [rule for policy in mine for rule in policy["spec"].get(direction.lower(), [])]
    return not mine or any(_passes(rule, direction, own, other, port) for rule in rules)


def _passes(rule: dict[str, Any], direction: str, own: Pod, other: Pod, port: int) -> bool:
    ports = rule.get("ports")
    if ports and not any(p["port"] == port and p["protocol"] == "TCP" for p in ports):
        return False
    peers = rule.get("from" if direction == "Ingress" else "to")
    return not peers or any(_is_peer(peer, own, other) for peer in peers)


def _is_peer(peer: dict[str, Any], own: Pod, other: Pod) -> bool:
    if "namespaceSelector" in peer:
        near = _matches(peer["namespaceSelector"], other.namespace_labels)
    else:
        near = own.namespace == other.namespace
    return near and _matches(peer.get("podSelector", {}), other.labels)


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    equal = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
    terms = selector.get("matchExpressions", [])
    return equal and all(
        term["operator"] == "Exists" and term["key"] in labels for term in terms
    )  # fmt: skip
