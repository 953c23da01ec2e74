"""What labels, annotations and variables of a pool's pods may be called and hold. Pure.

An API server tells of a bad one only when a pod's Deployment is made. Its rules are those of
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
"""

import re
from collections.abc import Iterator

from penstock_contract.api.patterns import DNS_NAME
from penstock_contract.api.pod_template import PodTemplate

_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[ -<>-~]+")
_LONGEST_PREFIX = 253
_RULE = "at most 63 letters, digits, -, _ and ., with a letter or digit at either end"


def wrong_metadata(template: PodTemplate) -> Iterator[tuple[str, str]]:
    """Yield the path of each field below the pool that is wrong, and what it must be."""
    labels = [("labels", template.labels), ("nodeSelector", template.node_selector)]
    for field, found in [*labels, ("annotations", template.annotations)]:
        for key in found:
            if not _is_key(key):
                fix = f"must be called like `team` or `example.com/team`: {_RULE}"
                yield f"template.{field}[{key}]", fix
    for field, found in labels:
        for key, value in found.items():
            if not _VALUE.fullmatch(value):
                yield f"template.{field}[{key}]", f"{value!r} must be {_RULE}"
    for field, names in (("env", template.env), ("envValueFrom", template.env_value_from)):
        for name in names:
            if not _VARIABLE.fullmatch(name):
                yield f"template.{field}[{name}]", "a variable's name is printable ASCII without ="


def _is_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not (re.fullmatch(DNS_NAME, prefix) and len(prefix) <= _LONGEST_PREFIX):
        return False
    return bool(name and _VALUE.fullmatch(name))
